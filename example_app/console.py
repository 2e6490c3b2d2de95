"""The simulated provider's buttons: things that happen to mail out in the world."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, current_app, flash, redirect, request, url_for
from werkzeug.wrappers import Response

from flask_mailesp.simulator import Delivery

from .offline import ADDRESS, Offline
from .pages import page
from .security import check_csrf

blueprint = Blueprint("simulator", __name__, url_prefix="/simulator")
blueprint.before_request(check_csrf)


@blueprint.post("/emit")
def emit() -> Response:
    """Let something happen to one recipient's copy of a message."""
    offline: Offline = current_app.extensions["offline"]
    form = request.form
    try:
        report(offline.sim.emit(form["message_id"], form["event"], form["recipient"]))
    except (ValueError, LookupError):
        flash("The simulator does not know this message or event.")
    return redirect(url_for("pages.index", _anchor="events"), 303)


@blueprint.post("/receive")
def receive() -> Response | tuple[str, int]:
    """Let a mail arrive for this app."""
    offline: Offline = current_app.extensions["offline"]
    errors = find_errors(request.form)
    if errors:
        return page(note=request.form, note_errors=errors), 422
    report(offline.sim.receive(offline.esp, compose(offline, request.form), to=ADDRESS))
    return redirect(url_for("pages.index", _anchor="inbound"), 303)


def find_errors(form: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong with the mail, by field."""
    errors = {}
    if "@" not in form.get("from", ""):
        errors["from"] = "Enter one email address, like you@example.com."
    if not form.get("text", "").strip():
        errors["text"] = "Enter a text."
    return errors


def compose(offline: Offline, form: Mapping[str, str]) -> bytes:
    """Write the mail."""
    files = [("note.txt", "text/plain", b"A small note.\n")] if "with_file" in form else []
    return offline.sim.compose(
        offline.esp,
        from_=one_line(form["from"]),
        to=ADDRESS,
        subject=one_line(form.get("subject", "")),
        text=form["text"],
        attachments=files,
    )


def one_line(text: str) -> str:
    """Return what a header can carry: no line breaks, no control characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def report(delivery: Delivery) -> None:
    """Tell the visitor if the app did not take a webhook."""
    if delivery.status != 200:
        flash(f"The webhook was not taken: {delivery.error or f'HTTP {delivery.status}'}.")
