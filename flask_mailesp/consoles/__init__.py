"""What the command line knows about each ESP's console: one module, one `Console`."""
