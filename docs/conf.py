"""Sphinx configuration."""

from __future__ import annotations

from flask_mailesp import __version__

project = "Flask-MailESP"
author = "The Flask-MailESP contributors"
copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Flask-MailESP {version}"
