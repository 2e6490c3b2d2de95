"""What the simulator remembers, and who may share it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client as WsgiClient

from flask_mailesp.simulator import DatabaseError, Fault, SentMessage, Simulator
from flask_mailesp.simulator.database import APPLICATION_ID, VERSION

from .conftest import POSTAL_KEY, POSTMARK_TOKEN, Application

HEADERS = {"Accept": "application/json", "X-Postmark-Server-Token": POSTMARK_TOKEN}
MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}

Make = Callable[..., Simulator]


@pytest.fixture
def make(private_key: str) -> Iterator[Make]:
    """Make simulators that are closed when the test ends."""
    made: list[Simulator] = []

    def make_one(**options: Any) -> Simulator:
        made.append(Simulator(**{"postal_private_key": private_key, "auto": ()} | options))
        return made[-1]

    yield make_one
    for simulator in made:
        simulator.close()


def post(sim: Simulator, **fields: Any) -> Any:
    answer = WsgiClient(sim).post("/postmark/email", json=MESSAGE | fields, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json


def post_postal(sim: Simulator, **fields: Any) -> Any:
    body = {"from": "a@example.org", "to": ["bea@example.com"], "plain_body": "Hi"} | fields
    answer = WsgiClient(sim).post(
        "/postal/api/v1/send/message", json=body, headers={"X-Server-API-Key": POSTAL_KEY}
    )
    assert answer.status_code == 200, answer.text
    return answer.json


# -- a file ---------------------------------------------------------------------------------


def test_a_file_outlives_the_simulator(make: Make, tmp_path: Path) -> None:
    """All of a message: nothing is lost or changed on its way through the file."""
    first = make(database=tmp_path / "mail.db")
    content = {"Name": "a.dat", "Content": "AP8=", "ContentType": "x/y", "ContentID": "cid:a"}
    post(first, Attachments=[content], Headers=[{"Name": "X-A", "Value": "1"}], Metadata={"a": "b"})
    post_postal(first, tag="t")
    before = first.messages
    first.close()

    assert make(database=tmp_path / "mail.db").messages == before
    assert before[0].attachments[0].data == b"\x00\xff"
    assert before[0].headers == [("X-A", "1")]


def test_two_simulators_share_a_file(make: Make, tmp_path: Path, application: Application) -> None:
    """A hook, a suppression, a fault or a message of one is there for the other at once."""
    one, other = (make(database=tmp_path / "mail.db") for _ in range(2))
    one.hook("postmark", tracking=application.hook("/t"), inbound=application.hook("/i"))
    one.suppress("postmark", "gone@example.net")
    one.template("postmark", alias="welcome", subject="Hi")
    sent = post(one)
    fault = one.fault(status=503)

    assert list(other.faults) == [fault]
    assert other.faults.discard(fault.id)
    assert not other.faults.discard(fault.id)
    assert "inactive" in post(other, Cc="gone@example.net")["Message"]
    assert other.emit(sent["MessageID"], "opened").status == 200
    assert [one.event for one in one.deliveries] == ["opened"]
    assert one.message_count == 2


def test_processes_that_share_a_file_share_postals_key(tmp_path: Path) -> None:
    with_file = [Simulator(database=tmp_path / "mail.db") for _ in range(2)]

    assert with_file[0].postal_jwks == with_file[1].postal_jwks
    for simulator in with_file:
        simulator.close()


def test_waiting_sees_what_another_process_posts(
    make: Make, tmp_path: Path, application: Application
) -> None:
    one, other = (make(database=tmp_path / "mail.db") for _ in range(2))
    one.hook("postmark", tracking=application.hook("/t"))
    number = post(one)["MessageID"]
    timer = threading.Timer(0.1, one.emit, (number, "opened"))
    timer.start()

    assert [one.event for one in other.wait(n_deliveries=1)] == ["opened"]
    timer.join()


def test_the_file_is_its_owners_alone(make: Make, tmp_path: Path) -> None:
    sim = make(database=tmp_path / "mail.db")
    post(sim)

    modes = {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    assert modes == {0o600}


def test_an_empty_file_is_taken_and_closed_to_others(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    path.touch(0o644)

    post(make(database=path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def application_file(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()


def newer_file(path: Path) -> None:
    Simulator(database=path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()


@pytest.mark.parametrize(
    ("make_file", "sentence"),
    [
        (lambda path: path.write_text("Dear diary,\n" * 100), "is not a mailbox database"),
        (application_file, "is not a mailbox database"),
        (newer_file, r"another version of the simulator \(2, not 1\)"),
        (lambda path: path.mkdir(), "cannot be used: Is a directory"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(
    tmp_path: Path, make_file: Callable[[Path], object], sentence: str
) -> None:
    path = tmp_path / "mail.db"
    make_file(path)
    before = path.read_bytes() if path.is_file() else b""

    with pytest.raises(DatabaseError, match=sentence):
        Simulator(database=path)

    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"no[\\/]mail.db cannot be used: No such file"):
        Simulator(database=tmp_path / "no" / "mail.db")


def test_the_file_says_whose_it_is(make: Make, tmp_path: Path) -> None:
    make(database=tmp_path / "mail.db")
    connection = sqlite3.connect(tmp_path / "mail.db")

    pragmas = ("application_id", "user_version", "journal_mode")
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    connection.close()

    assert found == [APPLICATION_ID, VERSION, "wal"]


def test_a_database_in_use_makes_others_wait(make: Make, tmp_path: Path) -> None:
    """Somebody else's transaction delays a message; it does not lose it."""
    sim = make(database=tmp_path / "mail.db")
    connection = sqlite3.connect(
        tmp_path / "mail.db", isolation_level=None, check_same_thread=False
    )
    connection.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, connection.execute, ("COMMIT",))
    timer.start()

    post(sim)

    timer.join()
    connection.close()
    assert sim.message_count == 1


SENDER = """
import sys
from werkzeug.test import Client
from flask_mailesp.simulator import Simulator

sim = Simulator(database=sys.argv[1], auto=())
for number in range(20):
    Client(sim).post("/postmark/email", json={"From": "a@example.org", "To": "b@example.com",
        "Subject": f"{sys.argv[2]} {number}", "TextBody": "x"},
        headers={"Accept": "application/json", "X-Postmark-Server-Token": sys.argv[3]})
sim.close()
"""


def test_processes_write_at_the_same_time(make: Make, tmp_path: Path) -> None:
    """All of them create the file, and nothing any of them sends is lost or reordered."""
    path = tmp_path / "mail.db"
    command = [sys.executable, "-W", "error", "-c", SENDER, str(path)]
    running = [subprocess.Popen([*command, one, POSTMARK_TOKEN]) for one in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]

    subjects = [message.subject for message in make(database=path).messages]
    assert len(subjects) == 40
    for name in "ab":
        own = [subject for subject in subjects if subject and subject.startswith(name)]
        assert own == [f"{name} {number}" for number in range(20)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_forked_child_has_a_connection_of_its_own(
    make: Make, tmp_path: Path, in_memory: bool
) -> None:
    """A file is shared with the parent; memory is the child's copy."""
    sim = make(database=None if in_memory else tmp_path / "mail.db")
    post(sim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork, since 3.12
        child = multiprocessing.get_context("fork").Process(target=post, args=(sim,))
        child.start()
    child.join(30)

    post(sim)

    assert child.exitcode == 0
    assert sim.message_count == (2 if in_memory else 3)


# -- anything in it -------------------------------------------------------------------------

NASTY = "\ud800 \x00 \x1b[31m \u2028 \N{PARTY POPPER} '; DROP TABLE messages; --"


@pytest.mark.parametrize("in_memory", [True, False])
def test_any_character_and_byte_is_kept(make: Make, tmp_path: Path, in_memory: bool) -> None:
    """Lone surrogates cannot be SQLite text, nor an INSERT's parameter."""
    sim = make(database=None if in_memory else tmp_path / "mail.db")

    post(sim, Subject=NASTY, Metadata={NASTY[:20]: NASTY[:80]}, Tag=NASTY)
    post_postal(sim, subject=NASTY, tag=NASTY, to=[NASTY + "@example.com"])

    postmark, postal = (
        make(database=tmp_path / "mail.db").messages if not in_memory else sim.messages
    )
    assert (postmark.subject, postmark.tag) == (NASTY, NASTY)
    assert postal.recipients == [NASTY + "@example.com"]
    assert sim.message(postal.ids[NASTY + "@example.com"]) == postal


def test_json_nested_to_the_limit_does_not_break_the_record(make: Make) -> None:
    """What is too deep to be written down again is left out; the message is not."""
    sim = make()
    for depth in range(850, 1000, 5):
        nested = '{"from": "a@example.org", "to": ["b@example.com"], "plain_body": "x", "x": %s}'
        WsgiClient(sim).post(
            "/postal/api/v1/send/message",
            data=nested % ("[" * depth + "]" * depth),
            content_type="application/json",
            headers={"X-Server-API-Key": POSTAL_KEY},
        )

    assert {message.text for message in sim.messages} == {"x"}
    assert all(refusal.status == 400 for refusal in sim.rejected)


# -- how much -------------------------------------------------------------------------------


def test_only_so_many_messages_are_kept(make: Make) -> None:
    """The oldest go, with all that the provider knew of them."""
    sim = make(keep=3)
    first = post_postal(sim)["data"]["messages"]["bea@example.com"]["id"]
    for number in range(4):
        post(sim, Subject=str(number))

    assert [message.subject for message in sim.messages] == ["1", "2", "3"]
    assert sim.message(first) is None
    look_up = WsgiClient(sim).post(
        "/postal/api/v1/messages/message",
        json={"id": first},
        headers={"X-Server-API-Key": POSTAL_KEY},
    )
    assert look_up.json is not None
    assert look_up.json["data"]["code"] == "MessageNotFound"


def test_refusals_are_bounded_too(make: Make) -> None:
    sim = make(keep=2)
    for _ in range(4):
        WsgiClient(sim).post("/postmark/nowhere", json={}, headers=HEADERS)

    assert len(sim.rejected) == 2


def test_clearing_empties_the_mailbox_and_keeps_the_set_up(
    make: Make, application: Application
) -> None:
    sim = make()
    sim.hook("postmark", tracking=application.hook("/t"), inbound=application.hook("/i"))
    sim.template("postmark", alias="welcome", subject="Hi")
    sim.suppress("postmark", "gone@example.net")
    sim.emit(post(sim)["MessageID"], "bounced")
    sim.receive("postmark", b"From: a@example.com\r\n\r\nHi", to="b@example.org")

    sim.clear()

    assert (sim.messages, sim.deliveries, sim.rejected) == ([], [], [])
    assert "inactive" in post(sim, To="x@example.com, gone@example.net")["Message"]
    assert sim.emit(sim.messages[0], "opened").status == 200


def test_pages_go_backwards_from_the_newest(make: Make) -> None:
    sim = make()
    for number in range(5):
        post(sim, Subject=str(number))

    page = sim.newest(2)
    rest = sim.newest(10, before=page[-1].id)

    assert [one.subject for one in page] == ["4", "3"]
    assert [one.subject for one in rest] == ["2", "1", "0"]


def test_more_messages_than_are_kept_decoded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_mailesp.simulator.store.MOST_DECODED", 2)
    sim = make()
    for number in range(5):
        post(sim, Subject=str(number))

    assert [one.subject for one in sim.messages] == list("01234")


# -- tidiness -------------------------------------------------------------------------------


def test_nothing_is_left_open_by_one_who_forgets_to_close(tmp_path: Path) -> None:
    """A simulator that nobody holds closes its database: no ResourceWarning, no WAL left."""
    post(Simulator(database=tmp_path / "mail.db", auto=()))
    gc.collect()

    assert [one.name for one in tmp_path.iterdir()] == ["mail.db"]


def test_threads_share_the_connection(make: Make) -> None:
    sim = make()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: post(sim, Subject=str(number)), range(40)))

    assert sorted(int(one.subject or 0) for one in sim.messages) == list(range(40))


def test_a_failed_transaction_leaves_nothing(make: Make) -> None:
    sim = make()
    database = sim._store._database

    def fail() -> None:
        with database.writing() as connection:
            connection.execute("DELETE FROM messages")
            raise KeyError

    post(sim)
    with pytest.raises(KeyError):
        fail()

    assert sim.message_count == 1


# -- the list of faults ---------------------------------------------------------------------


def test_faults_are_a_list(make: Make) -> None:
    """In order, with everything a list can do; each fault has an id while it waits."""
    faults = make().faults
    faults.append(Fault(status=500, body=b"\xff", headers={"A": "b"}))
    faults.insert(0, Fault(status=501))
    faults[1:] = [Fault(status=502)]
    faults.append(Fault(status=503))
    del faults[0]

    assert [fault.status for fault in faults] == [502, 503]
    assert [fault.status for fault in faults[:1]] == [502]
    assert faults.pop(0).status == 502
    assert faults[0].id > 0
    assert "503" in repr(faults)
    faults.clear()
    assert len(faults) == 0


def test_a_message_is_one_object_however_often_it_is_asked_for(make: Make) -> None:
    sim = make()
    post(sim)
    (message,) = sim.messages

    assert isinstance(message, SentMessage)
    assert sim.messages[0] is message
