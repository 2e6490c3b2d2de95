"""AWS credentials that come and go: of roles, SSO, containers and machines. Does I/O.

botocore knows all the places where AWS puts them, and the protocols for renewing them; it is
the ``ses`` extra, and imported by the first request that has to be signed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .esp import Secret
from .exceptions import ConfigurationError, NotSentError
from .patterns import pattern
from .sigv4 import Credentials
from .wire import as_object, text

if TYPE_CHECKING:
    from botocore.credentials import Credentials as Found  # type: ignore[import-untyped]

_CODE = pattern(r"[A-Za-z0-9.]{1,60}")


def has_botocore() -> bool:
    """Tell whether the ``ses`` extra is installed, without importing it."""
    from importlib.util import find_spec

    return find_spec("botocore") is not None


class CredentialChain:
    """Gives the credentials that botocore finds; they are renewed before they expire.

    Its chain is the environment, an assumed role, web identity, SSO, the credentials file,
    ``aws login``, a process, the config file, a container's and a machine's metadata.
    ``what_to_do`` ends the texts of errors.

    https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
    """

    def __init__(self, what_to_do: str) -> None:
        self._what_to_do = what_to_do
        self._found: Found | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Credentials:
        """Return credentials that are valid now.

        Raises ConfigurationError where botocore is missing or finds none, and NotSentError
        where those it has found cannot be renewed.
        """
        if not has_botocore():
            raise ConfigurationError(
                f"There are no AWS credentials, and botocore is not installed. {self._what_to_do}"
            )
        try:
            return self._current()
        except ConfigurationError:
            raise
        except Exception as error:  # botocore's own, what AWS STS refuses, files that are gone
            reason = _reason(error)
        raise NotSentError(f"AWS credentials could not be had ({reason}). {self._what_to_do}")

    def _current(self) -> Credentials:
        with self._lock:
            if self._found is None:
                self._found = _look_up()
            found = self._found
        if found is None:
            raise ConfigurationError(f"botocore finds no AWS credentials. {self._what_to_do}")
        frozen = found.get_frozen_credentials()
        return Credentials(
            Secret(frozen.access_key),
            Secret(frozen.secret_key),
            Secret(frozen.token) if frozen.token else None,
        )

    def __repr__(self) -> str:
        return "<CredentialChain>"


def _reason(error: Exception) -> str:
    """Name an error, with the code that AWS gave; its text may tell more than a log should hold."""
    answer = getattr(error, "response", None)
    code = text(as_object(as_object(answer).get("Error")), "Code")
    name = type(error).__name__
    return f"{name}: {code}" if code and _CODE.fullmatch(code) else name


def _look_up() -> Found | None:
    from botocore.session import Session  # type: ignore[import-untyped]

    return Session().get_credentials()
