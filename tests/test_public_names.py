"""``flask_mailesp`` imports its public names when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flask_mailesp


@pytest.mark.parametrize("name", flask_mailesp.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(flask_mailesp, name) is not None
    assert name in dir(flask_mailesp)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Massage'"):
        flask_mailesp.Massage  # noqa: B018


def test_importing_the_package_alone_imports_no_flask() -> None:
    code = "import sys, flask_mailesp; print('flask' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
