"""Many sends at once, each of which must get its own answer. For the tests and for `soak`."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial

from flask import Flask

from flask_mailesp import MailESP, Message

MAIL = MailESP()


def app_for(url: str) -> Flask:
    """Return an app that sends one message a request."""
    app = Flask("soaking")
    app.config.update(
        MAILESP_ESP="postmark",
        MAILESP_POSTMARK_SERVER_TOKEN="token",
        MAILESP_POSTMARK_API_URL=url,
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.com"},
    )
    MAIL.init_app(app)
    return app


def crossed(app: Flask, who: str, count: int) -> int:
    """Send some messages; return how many got an answer that was not theirs.

    The server answers with the subject as the id.
    """
    with app.app_context():
        return sum(
            MAIL.send(Message(f"{who}-{n}", f"user{n}@example.com", "Hi")).message_id
            != f"{who}-{n}"
            for n in range(count)
        )


def crossed_in_threads(app: Flask, threads: int, count: int) -> int:
    """Send from several threads at once; return how many answers went to the wrong one."""
    found: list[int] = []
    start = threading.Barrier(threads)

    def work(who: str) -> None:
        start.wait()
        found.append(crossed(app, who, count))

    running = [threading.Thread(target=work, args=(f"thread{n}",)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if len(found) < threads:
        raise RuntimeError("a thread has failed")
    return sum(found)


def crossed_in_children(app: Flask, children: int, count: int) -> int:
    """Send from forked children, whose parent has a connection open, and from the parent."""
    wrong = crossed(app, "parent", 1)
    pids = [_fork(partial(crossed, app, f"child{n}", count)) for n in range(children)]
    wrong += crossed(app, "parent", count)
    return wrong + sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


def _fork(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 100
    try:
        status = min(work(), 99)
    finally:
        os._exit(status)


def subject_as_id(body: bytes) -> bytes:
    """Return Postmark's answer to one message, or to a batch."""
    data = json.loads(body)
    items = data if isinstance(data, list) else [data]
    answers = [{"ErrorCode": 0, "Message": "OK", "MessageID": item["Subject"]} for item in items]
    return json.dumps(answers if isinstance(data, list) else answers[0]).encode()


if __name__ == "__main__":
    url, children, count = sys.argv[1:]
    sys.exit(min(crossed_in_children(app_for(url), int(children), int(count)), 99))
