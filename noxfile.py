"""Checks on several Pythons: ``nox`` runs all of them, ``nox -s lint`` one."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "virtualenv"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# Long runs that are the same on every Python; the README's test command has them.
LONG = ("hostile_forms", "drill", "soaking", "promises")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite without the browser; the newest Python also measures branch coverage."""
    session.install("-q", "-e", ".[test]")
    coverage = ["--cov", "--cov-report=term", "--cov-fail-under=95"]
    session.run(
        *("pytest", "-q", "-m", "not browser"),
        *(f"--ignore=tests/test_{name}.py" for name in LONG),
        *(coverage if session.python == PYTHONS[-1] else []),
        *session.posargs,
    )


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over package, tests and example."""
    session.install("-q", "-e", ".[test,lint]")
    session.run("mypy")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and flake8."""
    session.install("-q", "ruff", "flake8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("flake8", "flask_mailesp", "tests", "example_app", "docs", "noxfile.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, with warnings as errors."""
    session.install("-q", "-e", ".[docs,test]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")
