"""From what a visitor typed to a `Message`, or to what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flask import render_template, request
from werkzeug.datastructures import FileStorage

from flask_mailesp import Message

LOGO = Path(__file__).parent / "static" / "envelope.png"
MAX_FILE = 7 * 1024 * 1024  # in base64 that stays below the 10 MB Postmark takes
REQUIRED = {
    "to": "Enter at least one recipient.",
    "subject": "Enter a subject.",
    "body": "Enter a text.",
}

# One item for each line, comma or semicolon, except within a quoted name.
_ITEM = re.compile(r'(?:"(?:[^"\\\n]|\\.)*"|[^",;\n]|")+')


def read_addresses(text: str) -> list[str]:
    """Split what was typed into single addresses. `mail.send` checks each of them."""
    return [item.strip() for item in _ITEM.findall(text) if item.strip()]


def find_errors(form: Mapping[str, str], file: FileStorage | None) -> dict[str, str]:
    """Return what is wrong by field: missing, obviously no address, or too large."""
    errors = {
        name: text for name, text in REQUIRED.items() if not form.get(name, "").strip(" \t\r\n,;")
    }
    wrong = next((item for item in read_addresses(form.get("to", "")) if "@" not in item), None)
    if wrong is not None:
        errors["to"] = f"“{wrong[:80]}” is not an email address. Write it like you@example.com."
    if file is not None and _size(file) > MAX_FILE:
        errors["file"] = "This file is larger than 7 MB. Choose a smaller one."
    return errors


def make_message(form: Mapping[str, str], file: FileStorage | None) -> Message:
    """Make the message. Nothing is checked here: `mail.send` refuses what cannot be sent."""
    message = Message(form["subject"], to=read_addresses(form["to"]), body=form["body"])
    if file is not None:
        message.attach(file.filename, file.mimetype or None, file.read())
    if "with_image" in form:
        cid = message.embed_file(LOGO)
        message.html = render_template("mail.html", text=form["body"], cid=cid)
    return message


def uploaded(name: str) -> FileStorage | None:
    """Return a file of the current request, or None if the visitor chose none."""
    file = request.files.get(name)
    return file if file is not None and file.filename else None


def _size(file: FileStorage) -> int:
    size = file.stream.seek(0, 2)
    file.stream.seek(0)
    return size
