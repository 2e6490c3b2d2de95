"""AWS credentials that botocore finds: in files, in containers, renewed in time, or nowhere."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from scripted import Reply, scripted

from flask_mailesp.aws import CredentialChain, has_botocore
from flask_mailesp.esp import Secret
from flask_mailesp.exceptions import ConfigurationError, NotSentError


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine has no AWS credentials, whatever it has."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def container_answer(number: int, lasting: timedelta) -> Reply:
    """What the agent in a container answers."""
    expires = datetime.now(timezone.utc) + lasting
    answer = {
        "AccessKeyId": f"ASIACANARY{number}",
        "SecretAccessKey": f"canary-secret-{number}",
        "Token": f"canary-token-{number}",
        "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return Reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


def test_credentials_of_a_container_are_asked_for_once_while_they_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request costs no other request."""
    with scripted(container_answer(1, timedelta(hours=6))) as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/role")
        chain = CredentialChain("")
        first, second = chain(), chain()

        assert len(agent.requests) == 1
    assert first == second
    assert (first.access_key_id, first.session_token) == ("ASIACANARY1", "canary-token-1")


def test_credentials_are_renewed_before_they_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each signature is made with what is valid then."""
    soon, later = timedelta(minutes=2), timedelta(hours=6)
    with scripted(container_answer(1, soon), container_answer(2, later)) as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/role")
        chain = CredentialChain("")
        keys = [chain().secret_access_key for _ in range(3)]

        assert len(agent.requests) == 2
    assert keys[-1] == "canary-secret-2"


def test_what_cannot_be_had_is_not_sent(tmp_path: Path) -> None:
    """Certainly not, so it may be tried again; the text shows nothing of what went wrong."""
    failing = f"{sys.executable} -c 'import sys; sys.exit(\"canary\")'"
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {failing}\n")

    with pytest.raises(NotSentError, match=r"CredentialRetrievalError.*Do this") as caught:
        CredentialChain("Do this.")()
    assert "canary" not in str(caught.value)


def test_credentials_in_a_file_are_found(tmp_path: Path) -> None:
    """As other tools of AWS do."""
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = AKIACANARY\naws_secret_access_key = canary-secret\n"
    )
    found = CredentialChain("")()

    assert (found.access_key_id, found.secret_access_key) == ("AKIACANARY", "canary-secret")
    assert found.session_token is None
    assert isinstance(found.secret_access_key, Secret)


def test_credentials_that_appear_later_are_found(tmp_path: Path) -> None:
    """That there were none is not remembered."""
    chain = CredentialChain("")
    with pytest.raises(ConfigurationError):
        chain()
    test_credentials_in_a_file_are_found(tmp_path)

    assert chain().access_key_id == "AKIACANARY"


def test_a_machine_without_credentials_is_told_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"finds no AWS credentials\. Set the key\."):
        CredentialChain("Set the key.")()


def test_without_botocore_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    without: Any = None  # as Python itself marks what must not be imported
    monkeypatch.setitem(sys.modules, "botocore", without)

    assert not has_botocore()
    with pytest.raises(ConfigurationError, match=r"botocore is not installed\. Install it\."):
        CredentialChain("Install it.")()


def test_a_chain_shows_nothing() -> None:
    assert repr(CredentialChain("canary")) == "<CredentialChain>"
