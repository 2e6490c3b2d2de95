"""``flask mailesp ...``: is everything in order, does a message go out, do webhooks come in.

Every ``flask`` command loads this module, so it imports little; the rest is imported by the
command that needs it. Errors that a user can mend are one sentence on stderr: exit code 1
where something failed, 2 where what was asked for does not make sense.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

    from .bulk import Failures, Run
    from .console import Finding
    from .extension import State
    from .rehearsal import Rehearsal
    from .results import SendResult
    from .webhooks_admin import Plan

MAX_EML = 64 * 1024 * 1024  # bytes

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


# The app is loaded by the commands and not by Flask's `with_appcontext`, so that a setting
# which is missing or wrong is told in a sentence instead of a traceback.
@click.group()
def mailesp() -> None:
    """Send, track and receive mail through email service providers."""


@contextmanager
def the_app() -> Iterator[tuple[Flask, State]]:
    """Yield the app, in its context, and what MailESP keeps for it."""
    from flask.cli import ScriptInfo

    from .terminal import Trouble

    with in_a_sentence():
        app = click.get_current_context().ensure_object(ScriptInfo).load_app()
        state: State | None = app.extensions.get("mailesp")
        if state is None:
            raise Trouble("This app has no MailESP: call MailESP(app) or mail.init_app(app).")
        try:
            with app.app_context():
                yield app, state
        finally:
            state.transport.close()


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """Turn what users can mend into one sentence."""
    from .exceptions import MailESPError
    from .terminal import Trouble

    try:
        yield
    except MailESPError as error:
        raise Trouble(str(error)) from error


# --- doctor ----------------------------------------------------------------------------


@mailesp.command()
@click.option("--url", help="The app's public address, to be called from outside as well.")
@as_json_option
def doctor(url: str | None, as_json: bool) -> None:
    """Examine the configuration, the credentials and the webhook routes.

    Sends no mail, and no receiver of the app hears of it. The exit code is 1 if anything
    failed; what cannot be told is no failure.
    """
    from .console import Verdict

    findings = []
    for finding in _examined(url):
        findings.append(finding)
    failed = any(finding.verdict is Verdict.FAILED for finding in findings)
    (_say_findings_json if as_json else _say_findings)(findings)
    sys.exit(1 if failed else 0)


def _examined(url: str | None) -> list[Finding]:
    """Examine the app; settings that do not even load are a finding, too."""
    from .config import as_url
    from .console import Finding, Verdict
    from .doctor import examine
    from .exceptions import ConfigurationError
    from .terminal import Misuse, Trouble

    try:
        url = as_url("--url", url, allow_http=True) if url else None
    except ConfigurationError as error:
        raise Misuse(str(error)) from error
    try:
        with the_app() as (app, state):
            return list(examine(app, state, url))
    except Trouble as error:
        if isinstance(error.__cause__, ConfigurationError):
            return [Finding("configuration", Verdict.FAILED, error.message)]
        raise


def _say_findings(findings: list[Finding]) -> None:
    from .terminal import say, say_table

    say_table([(str(one.verdict), one.check, one.subject, one.text) for one in findings])
    counts = [(word, _count(findings, word)) for word in ("failed", "warning", "cannot tell")]
    say()
    say(", ".join(f"{number} {word}" for word, number in counts if number) or "All is well.")


def _say_findings_json(findings: list[Finding]) -> None:
    from .terminal import say_json

    entries = [
        {
            "check": one.check,
            "subject": one.subject,
            "verdict": str(one.verdict),
            "text": one.text,
        }
        for one in findings
    ]
    say_json({"ok": not _count(findings, "failed"), "findings": entries})


def _count(findings: Iterable[Finding], word: str) -> int:
    return sum(finding.verdict == word for finding in findings)


# --- send-test -------------------------------------------------------------------------


@mailesp.command("send-test")
@click.argument("to")
@click.option("--using", metavar="NAME", help="One of the mailers in MAILESP_MAILERS.")
@click.option("--from", "sender", metavar="ADDRESS", help="Default: the configured sender.")
@as_json_option
def send_test(to: str, using: str | None, sender: str | None, as_json: bool) -> None:
    """Send a small message to TO, now, and tell what became of it."""
    from . import MailESP, Message
    from .terminal import Trouble

    with the_app() as (app, state):
        name = state.mailer(using).esp.name
        message = Message(
            f"Test message from {app.name}",
            to=[to],
            body=f"This message was sent through {name} to see that it arrives.\n",
        )
        if sender:
            message.sender = sender
        result = _sent(MailESP(), message, using)
    (_say_result_json if as_json else _say_result)(result)
    if result.error is not None:
        raise Trouble(str(result.error))
    if result.outcome == "cancelled":
        raise Trouble("A receiver of pre_send has cancelled the message.")


def _sent(mail: Any, message: Any, using: str | None) -> SendResult:
    """Send, and return the result even where there is an error."""
    from .exceptions import MailESPError

    try:
        result: SendResult = mail.send(message, using)
    except MailESPError as error:
        if error.result is None:
            raise
        return error.result
    return result


WORDS = {
    "queued": "taken; it waits to be delivered",
    "sent": "taken, and on its way",
    "rejected": "refused: the ESP does not deliver to this address",
    "invalid": "not sent: the ESP says that the address is wrong",
    "failed": "not sent",
    "unknown": "nobody knows: it may or may not have been taken",
}


def _say_result(result: SendResult) -> None:
    from .terminal import say_table

    rows = []
    for address, entry in result.recipients.items():
        status = str(entry.status)
        text = f"{WORDS[status]} (id {entry.message_id})" if entry.message_id else WORDS[status]
        rows.append((status, address, text))
    if rows:
        say_table(rows)


def _say_result_json(result: SendResult) -> None:
    from .terminal import say_json

    recipients = {
        address: {"status": str(entry.status), "message_id": entry.message_id}
        for address, entry in result.recipients.items()
    }
    error = None if result.error is None else str(result.error)
    say_json(
        {
            "esp": result.esp_name,
            "outcome": str(result.outcome),
            "recipients": recipients,
            "error": error,
        }
    )


# --- send-many -------------------------------------------------------------------------


@mailesp.command("send-many")
@click.argument("file")
@click.option("--using", metavar="NAME", help="One of the mailers in MAILESP_MAILERS.")
@click.option("--workers", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--failures", metavar="FILE", help="Default: FILE.failed.jsonl, beside FILE.")
@as_json_option
def send_many(
    file: str, using: str | None, workers: int, failures: str | None, as_json: bool
) -> None:
    """Send the messages in FILE, one JSON object of Message.to_dict() on each line.

    What failed is written to another file, each line with its error. The exit code is 1 if
    anything is in it.
    """
    from .bulk import Failures, Run

    path = failures or f"{file}.failed.jsonl"
    with the_app() as (app, state), _source(file) as source, Failures(_absent(path)) as failed:
        state.mailer(using)
        with _progress(source) as bar:
            run = Run(source, failed, bar.update)
            run.send(app, using, workers)
    (_say_run_json if as_json else _say_run)(run, failed)
    sys.exit(130 if run.interrupted else 1 if failed.count else 0)


@contextmanager
def _source(file: str) -> Iterator[IO[bytes]]:
    from .terminal import Misuse

    try:
        source = open(file, "rb")  # noqa: SIM115 - only opening it is tried
    except (OSError, ValueError) as error:
        raise Misuse(f"{file} cannot be read.") from error
    with source:
        yield source


def _absent(path: str) -> Path:
    """Return the path of a file that is to be made. What is there may be all that is known."""
    from pathlib import Path

    from .terminal import Misuse

    found = Path(path)
    if found.exists():
        raise Misuse(f"{path} is there already, from another run; move it, or give --failures.")
    if not found.parent.is_dir():
        raise Misuse(f"There is no directory for {path}.")
    return found


def _progress(source: IO[bytes]) -> Any:
    """Return a bar over the bytes of the file; where there is no terminal, none is drawn."""
    import os

    size = os.fstat(source.fileno()).st_size
    return click.progressbar(
        length=size,
        label="Sending",
        file=sys.stderr,
        show_pos=False,
        hidden=not sys.stderr.isatty(),
    )


def _say_run(run: Run, failed: Failures) -> None:
    from .terminal import say, say_table

    if run.outcomes:
        say_table([(word, str(count)) for word, count in run.outcomes.most_common()])
    if failed.count:
        say(f"What failed is in {failed.path}.", err=True)
    if run.interrupted:
        say(f"Interrupted: of the file, {run.lines} lines were read.", err=True)


def _say_run_json(run: Run, failed: Failures) -> None:
    from .terminal import say_json

    say_json(
        {
            "outcomes": dict(run.outcomes),
            "lines": run.lines,
            "interrupted": run.interrupted,
            "failures": str(failed.path) if failed.count else None,
        }
    )


# --- webhooks to try the app on --------------------------------------------------------


@mailesp.command()
@click.argument("esp")
@click.argument("event")
@click.option("--recipient", default="someone@example.com", show_default=True)
@click.option("--message-id", metavar="ID", help="The ESP's id of a message the app has sent.")
def simulate(esp: str, event: str, recipient: str, message_id: str | None) -> None:
    """Have the app receive EVENT, as from ESP: `simulate postmark bounced`.

    The app's own receivers run. The event comes over HTTP to the app's own route, in the
    ESP's own form, and as authentic as the ESP's. Whether there is a message with the given
    id, only the app can know.
    """
    from . import rehearsal

    with the_app() as (app, state), sensibly():
        outcome = rehearsal.simulate(
            app, state, esp, event, recipient=recipient, message_id=message_id
        )
    _say_rehearsal(outcome)


@mailesp.command()
@click.argument("file")
@click.option("--esp", metavar="ESP", help="Default: the default mailer's.")
@click.option("--to", metavar="ADDRESS", help="The envelope's recipient. Default: from the mail.")
def inbound(file: str, esp: str | None, to: str | None) -> None:
    """Have the app receive the mail in FILE (.eml), as from ESP."""
    from . import rehearsal
    from .terminal import Misuse

    source = _read_mail(file)
    with the_app() as (app, state):
        try:
            outcome = rehearsal.deliver_mail(
                app, state, esp or state.mailer(None).esp.key, source, to=to
            )
        except rehearsal.Unusable as error:
            raise Misuse(_about(file, str(error))) from error
    _say_rehearsal(outcome)


def _about(file: str, text: str) -> str:
    return f"{file}: {text}" if text.startswith("it ") else text


@contextmanager
def sensibly() -> Iterator[None]:
    """Turn a request that makes no sense into a sentence and exit code 2."""
    from .rehearsal import Unusable
    from .terminal import Misuse

    try:
        yield
    except Unusable as error:
        raise Misuse(str(error)) from error


def _read_mail(file: str) -> bytes:
    from .terminal import Misuse

    try:
        with open(file, "rb") as source:
            data = source.read(MAX_EML + 1)
    except OSError as error:
        raise Misuse(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise Misuse("The name of the file cannot be one.") from error
    if len(data) > MAX_EML:
        raise Misuse(f"{file} is larger than any ESP would deliver.")
    return data


def _say_rehearsal(outcome: Rehearsal) -> None:
    """Say what the app made of a webhook; anything but 200 is trouble."""
    from .terminal import Trouble, say, say_table

    rows = [row for event in outcome.events for row in _described(event)]
    if rows:
        say_table(rows)
    if outcome.status == 200:
        say(f"{outcome.path} answered 200; {_HEARD.get(outcome.receivers, _MANY)}")
        return
    if outcome.reason:
        raise Trouble(f"{outcome.path} answered {outcome.status}: {outcome.reason}")
    if outcome.status is None:
        raise Trouble(f"{outcome.path} gave no final answer. {_ELSE}")
    raise Trouble(f"{outcome.path} answered {outcome.status}. {_WHY.get(outcome.status, _ELSE)}")


_HEARD = {0: "but no receiver of the app is connected.", 1: "the app's receiver ran."}
_MANY = "the app's receivers ran."
_ELSE = "Run `flask mailesp doctor`: something in the app comes before the webhook's route."
_WHY = {
    413: "The body is larger than MAILESP_WEBHOOK_MAX_BYTES.",
    503: "A receiver raised an exception, which is in the log; the ESP would try again later.",
}


def _described(event: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields of an event that have a value, with their names."""
    message = getattr(event, "message", None)
    if message is not None:
        yield "from", str(message.from_email or "")
        yield "to", str(message.envelope_recipient or "")
        yield "subject", str(message.subject or "")
        yield "attachments", str(len(message.attachments) + len(message.inlines))
        return
    for name in ("event_type", "recipient", "message_id", "reject_reason", "description"):
        value = getattr(event, name)
        if value:
            yield name, str(value)


# --- webhooks at the ESP ---------------------------------------------------------------


@mailesp.group()
def webhooks() -> None:
    """Where the ESPs are to post, and setting that up."""


base_option = click.option(
    "--base", metavar="URL", help="The app's public address. Default: from SERVER_NAME."
)
inbound_option = click.option(
    "--inbound", "with_inbound", is_flag=True, help="Set up the hook for inbound mail as well."
)


@webhooks.command("url")
@base_option
@click.option("--show-credentials", is_flag=True, help="Print the URLs whole.")
@as_json_option
def webhooks_url(base: str | None, show_credentials: bool, as_json: bool) -> None:
    """Print the exact URLs to paste at the ESPs."""
    from .terminal import say
    from .webhooks_admin import PLACEHOLDER, hook_urls

    with the_app() as (app, state):
        address = _base(app, base)
        urls = list(hook_urls(state, address or PLACEHOLDER, show_credentials=show_credentials))
    if as_json:
        _say_urls_json(urls)
    else:
        _say_urls(urls)
    if address is None:
        say("Give the app's public address with --base to have it in the URLs.", err=True)


def _say_urls(urls: Iterable[Any]) -> None:
    from .terminal import printable, say

    for one in urls:
        say(f"{one.esp_name} {one.kind}: {printable(one.url)}")
        if one.where:
            say(f"    {one.where}")
        if one.advice:
            say(f"    {one.advice}")


def _say_urls_json(urls: Iterable[Any]) -> None:
    from .terminal import say_json

    say_json(
        [
            {"esp": one.esp_name, "kind": one.kind, "url": one.url, "where": one.where}
            for one in urls
        ]
    )


@webhooks.command("plan")
@base_option
@inbound_option
@as_json_option
def webhooks_plan(base: str | None, with_inbound: bool, as_json: bool) -> None:
    """Show what `apply` would change at the ESPs. Changes nothing."""
    from .webhooks_admin import plans

    with the_app() as (app, state):
        made = list(plans(state, _required_base(app, base), inbound=with_inbound))
    (_say_plans_json if as_json else _say_plans)(made)


@webhooks.command("apply")
@base_option
@inbound_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def webhooks_apply(base: str | None, with_inbound: bool, yes: bool) -> None:
    """Create or correct the app's webhooks at the ESPs; leave all others alone."""
    from .terminal import Trouble, say
    from .webhooks_admin import plans

    with the_app() as (app, state):
        made = list(plans(state, _required_base(app, base), inbound=with_inbound))
        _say_plans(made)
        if all(plan.obstacle for plan in made):
            raise Trouble("Nothing can be set up from here.")
        if not any(plan.pending for plan in made):
            say("Nothing to do.")
            return
        _confirm(yes)
        _apply(made)


def _base(app: Flask, base: str | None) -> str | None:
    from .exceptions import ConfigurationError
    from .terminal import Misuse
    from .webhooks_admin import base_of

    try:
        return base_of(app, base)
    except ConfigurationError as error:
        raise Misuse(str(error)) from error


def _required_base(app: Flask, base: str | None) -> str:
    from .terminal import Misuse
    from .webhooks_admin import is_public

    address = _base(app, base)
    if address is None:
        raise Misuse("Give the app's public address: --base https://app.example.com.")
    if not is_public(address):
        raise Misuse("--base is on this machine; the ESP has to reach the app from outside.")
    return address


def _confirm(yes: bool) -> None:
    from .terminal import Trouble

    if yes:
        return
    if not sys.stdin.isatty():
        raise Trouble("Add --yes to make these changes without being asked.")
    click.confirm("Make these changes?", abort=True)


def _apply(made: Iterable[Plan]) -> None:
    """Make the changes; one that fails does not keep the others from being made."""
    from .terminal import Trouble, say
    from .webhooks_admin import apply

    failed = 0
    for plan in made:
        for change, error in apply(plan):
            done = f"{plan.mailer.esp.name}, {change.place}: {change.action}d."
            say(done if error is None else f"{plan.mailer.esp.name}, {change.place}: {error}")
            failed += error is not None
    if failed:
        raise Trouble(f"{failed} of the changes could not be made.")


def _say_plans(made: Iterable[Plan]) -> None:
    from .terminal import say, say_table
    from .webhooks_admin import summary

    for plan in made:
        if plan.obstacle:
            say(plan.obstacle)
            continue
        if plan.changes:
            say_table(
                [
                    (str(one.action), one.place, one.url, "; ".join(one.details))
                    for one in plan.changes
                ]
            )
        say(summary(plan))


def _say_plans_json(made: Iterable[Plan]) -> None:
    from .terminal import say_json

    say_json(
        [
            {
                "esp": plan.mailer.esp.name,
                "mailer": plan.mailer.name,
                "obstacle": plan.obstacle or None,
                "changes": [
                    {
                        "action": str(one.action),
                        "place": one.place,
                        "url": one.url,
                        "details": list(one.details),
                    }
                    for one in plan.changes
                ],
            }
            for plan in made
        ]
    )


# --- matrix ----------------------------------------------------------------------------


@mailesp.command()
@as_json_option
def matrix(as_json: bool) -> None:
    """Print what each ESP can express: a table, or Markdown where there is no terminal."""
    from .matrix import capability_table
    from .registry import all_esps
    from .terminal import say, say_json, say_table

    markdown = capability_table(all_esps())
    head, _, *body = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in (markdown.splitlines())
    ]
    if as_json:
        say_json(
            {esp: {row[0]: row[at] == "yes" for row in body} for at, esp in enumerate(head[1:], 1)}
        )
    elif sys.stdout.isatty():
        say_table([head, *body])
    else:
        say(markdown)


# --- simulator -------------------------------------------------------------------------


@mailesp.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8025, show_default=True, type=click.IntRange(0, 65535))
@click.option("--database", metavar="FILE", help="Keep the mail in this file, not in memory.")
@click.option("--esp", "esps", metavar="ESP", multiple=True, help="Default: all. Repeatable.")
@click.option(
    "--tracking-url",
    metavar="[ESP=]URL",
    multiple=True,
    help="Where to post events. {esp} in it becomes the ESP's name. Repeatable.",
)
@click.option(
    "--inbound-url", metavar="[ESP=]URL", multiple=True, help="Where to post inbound mail."
)
@click.option(
    "--time-scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="1 repeats webhooks when the ESP would, 0.001 a thousand times sooner.",
)
@click.option("--auto/--no-auto", default=True, show_default=True, help="Deliver by itself.")
@click.option("--mailbox-token", metavar="TOKEN", help="Opens the mailbox from other machines.")
def simulator(
    host: str,
    port: int,
    database: str | None,
    esps: tuple[str, ...],
    tracking_url: tuple[str, ...],
    inbound_url: tuple[str, ...],
    time_scale: float,
    auto: bool,
    mailbox_token: str | None,
) -> None:
    """Run the ESPs' side on this machine, for development. Ends with Ctrl-C."""
    from importlib import import_module

    from .terminal import Misuse, Trouble

    program = import_module("flask_mailesp.simulator.program")
    chosen, lines = tuple(esps) or program.names(), Lines()
    code: int = program.run(
        host=host,
        port=port,
        database=database,
        esps=chosen,
        tracking=urls_by_esp(tracking_url, chosen),
        inbound=urls_by_esp(inbound_url, chosen),
        time_scale=time_scale,
        auto=auto,
        echo=lines,
        mailbox_token=mailbox_token,
    )
    if lines.held is not None:
        raise (Misuse if code == 2 else Trouble)(lines.held)
    sys.exit(code)


class Lines:
    """Prints lines. Holds the first one back: where it stays the only one, it is an error."""

    def __init__(self) -> None:
        self.held: str | None = None
        self.count = 0

    def __call__(self, text: str) -> None:
        """Print a line, after the one that is held."""
        from .terminal import say

        self.count += 1
        if self.count == 1:
            self.held = text
            return
        if self.held is not None:
            say(self.held)
            self.held = None
        say(text)


def urls_by_esp(values: Iterable[str], esps: tuple[str, ...]) -> dict[str, str]:
    """Read ``ESP=URL`` for one ESP, and a URL alone for every ESP."""
    urls: dict[str, str] = {}
    for value in values:
        esp, equals, url = value.partition("=")
        if equals and esp in esps:
            urls[esp] = url
        else:
            urls |= {name: value.replace("{esp}", name) for name in esps}
    return urls
