"""Threads and forked processes never get each other's answers; a progress bar just works.

Small versions: ``python -m tests.benchmarks.soak`` runs the long ones.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from benchmarks import soaking
from scripted import Reply, Request, scripted
from tqdm import tqdm

from flask_mailesp import Message


def answer(request: Request) -> Reply:
    return Reply(200, soaking.subject_as_id(request.body))


def test_threads_get_their_own_answers() -> None:
    """One app and mailer, sixteen threads."""
    with scripted(answer) as server:
        app = soaking.app_for(server.url)
        assert soaking.crossed_in_threads(app, threads=16, count=15) == 0
        app.extensions["mailesp"].transport.close()

    assert len(server.requests) == 16 * 15


def test_forked_children_get_their_own_answers() -> None:
    """Though their parent had a connection open when they were born, and goes on using it."""
    script = str(Path(soaking.__file__))
    with scripted(answer) as server:
        done = subprocess.run([sys.executable, script, server.url, "4", "20"], check=False)

    assert done.returncode == 0
    assert len(server.requests) == 1 + 5 * 20


def test_a_plain_progress_bar_shows_each_result() -> None:
    """tqdm needs nothing but an iterator and a total."""
    shown = io.StringIO()
    messages = (Message(f"No. {n}", f"user{n}@example.com", "Hi") for n in range(600))
    with scripted(answer) as server:
        app = soaking.app_for(server.url)
        with app.app_context():
            results = soaking.MAIL.send_many(messages)
            ids = [result.message_id for result in tqdm(results, total=600, file=shown)]
        app.extensions["mailesp"].transport.close()

    assert ids == [f"No. {n}" for n in range(600)]
    assert "600/600" in shown.getvalue()
