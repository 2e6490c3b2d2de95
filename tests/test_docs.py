"""README and documentation say what is true: of code, links, keys, tables and examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from flask_mailesp import EventType, MailESP, RejectReason
from flask_mailesp.config import GENERAL, names_of
from flask_mailesp.esp import Esp, Setting
from flask_mailesp.esps import mailgun, postal, postmark, resend, sendgrid
from flask_mailesp.registry import all_esps

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts),
]
ESPS = all_esps()
PLACEHOLDERS = frozenset({"KEY"})  # MAILESP_KEY: any key
INVENTED_ESP = "EXAMPLE_"  # the ESP that the guide to adding one adds

FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
LABEL = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
KEY = re.compile(r"(?<![A-Z_])(?:FLASK_)?MAILESP__?([A-Z][A-Z0-9_]*)")

Row = tuple[str, ...]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def esp_page(esp: Esp) -> str:
    return (DOCS / "esps" / f"{esp.key}.md").read_text("utf-8")


def python_blocks(page: Path) -> list[str]:
    """Every Python example of a page, without the indentation of the list it stands in."""
    return [
        dedent(code)
        for _, language, code in FENCE.findall(page.read_text("utf-8"))
        if language.strip() == "python"
    ]


def rows(text: str) -> Iterator[Row]:
    """The rows of all tables, headings included; a cell is what stands between the bars."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield tuple(cell.strip() for cell in line.strip("|").split("|"))


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    _, _, rest = text.partition(f"\n{heading}\n")
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def code(word: str | None) -> str:
    return f"`{word}`" if word else ""


# --- examples --------------------------------------------------------------------------

EXAMPLES = [
    pytest.param(block, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(python_blocks(page), 1)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_python_example_is_valid(example: str) -> None:
    """It compiles; what it leaves to the reader's own code may be undefined."""
    compile(example, "example", "exec")


def test_the_script_that_works_offline_prints_what_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each print() has its output beside it, as a comment."""
    script, _ = python_blocks(DOCS / "offline.md")

    exec(compile(script, "script", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own page

    promised = re.findall(r"^print\(.*\)  # (.*)$", script, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised
    assert promised


def test_the_tests_that_work_offline_pass(pytester: pytest.Pytester) -> None:
    _, tests = python_blocks(DOCS / "offline.md")
    pytester.makepyfile(tests)

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=tests.count("def test_"))


# --- links -----------------------------------------------------------------------------


def prose(text: str) -> str:
    """A page without its code, in which brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "``", FENCE.sub("", text))


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in LINK.findall(prose(page.read_text("utf-8"))):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def anchors(page: Path) -> set[str]:
    """What a page's headings and labels are linked by, as GitHub and MyST make it."""
    text = page.read_text("utf-8")
    headings = HEADING.findall(FENCE.sub("", text))
    deepest = 6 if page == ROOT / "README.md" else 3  # myst_heading_anchors
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for marks, heading in headings
        if len(marks) <= deepest
    }
    return slugs | set(LABEL.findall(text))


@pytest.mark.parametrize(
    ("page", "target"),
    [pytest.param(*link, id=f"{name_of(link[0])}-{link[1]}") for link in links()],
)
def test_every_link_within_the_project_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = page if not path else page.parent / path
    if not file.suffix:
        file = file.with_suffix(".md")  # MyST names other pages without it

    assert file.is_file()
    assert not anchor or anchor in anchors(file)


# --- keys ------------------------------------------------------------------------------

KNOWN = GENERAL.union(*map(names_of, ESPS))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_key_that_is_mentioned_exists(page: Path) -> None:
    mentioned = set(KEY.findall(page.read_text("utf-8")))

    unknown = mentioned - KNOWN - PLACEHOLDERS
    assert not {key for key in unknown if not key.startswith(INVENTED_ESP)}


def test_the_docstring_of_init_app_names_every_general_key() -> None:
    """It is the reference of the configuration, and shown as such in the documentation."""
    docstring = MailESP.init_app.__doc__ or ""

    assert {key for key in GENERAL if f"``{key}``" not in docstring} == set()


@pytest.mark.parametrize("esp", ESPS, ids=lambda esp: esp.key)
def test_an_esps_page_has_a_table_of_exactly_its_settings(esp: Esp) -> None:
    listed = {row[0] for row in rows(section(esp_page(esp), "## Settings"))}

    assert listed - {"key", "---"} == {f"`MAILESP_{name}`" for name in names_of(esp)}


REQUIRED = [
    pytest.param(esp, setting, id=f"{esp.key}-{setting.name}")
    for esp in ESPS
    for setting in esp.settings
    if setting.required
]


@pytest.mark.parametrize(("esp", "setting"), REQUIRED)
def test_a_required_setting_says_so_and_where_its_value_is_found(
    esp: Esp, setting: Setting
) -> None:
    """In the words of the error that is raised when it is missing."""
    key = f"`MAILESP_{esp.key.upper()}_{setting.name}`"
    (row,) = [row for row in rows(esp_page(esp)) if row[0] == key]

    assert row[1].startswith("required")
    assert row[2].replace("`", "") == setting.where


# --- webhooks --------------------------------------------------------------------------


# Mailgun posts a mail's source to a URL that ends so.
PASTED = {("mailgun", "inbound"): "inbound/mime"}


@pytest.mark.parametrize("esp", ESPS, ids=lambda esp: esp.key)
@pytest.mark.parametrize("kind", ["tracking", "inbound"])
def test_an_esps_page_gives_the_url_to_paste(esp: Esp, kind: str) -> None:
    path = PASTED.get((esp.key, kind), f"{kind}/")

    assert f"your-app.example/mail-hooks/{esp.key}/{path}\n" in esp_page(esp)


Mapped = tuple[str | None, EventType, RejectReason | None]

POSTMARK: list[Mapped] = [
    *((name, event_type, None) for name, event_type in postmark.SIMPLE_TYPES.items()),
    *((name, *meaning) for name, meaning in postmark.BOUNCE_TYPES.items()),
    *((name, *meaning) for name, meaning in postmark.SUPPRESSIONS.items()),
]


@pytest.mark.parametrize(("name", "event_type", "reason"), POSTMARK)
def test_postmarks_page_has_the_mapping_of_the_code(
    name: str | None, event_type: EventType, reason: RejectReason | None
) -> None:
    assert (code(name), code(event_type), code(reason)) in set(rows(esp_page(postmark.esp)))


EVENTS = [
    pytest.param(esp, name, event_type, id=f"{esp.key}-{name}")
    for esp, table in (
        (mailgun.esp, mailgun.EVENT_TYPES),
        (postal.esp, postal.EVENT_TYPES),
        (resend.esp, resend.EVENT_TYPES),
        (sendgrid.esp, sendgrid.EVENT_TYPES),
    )
    for name, event_type in table.items()
]


@pytest.mark.parametrize(("esp", "name", "event_type"), EVENTS)
def test_an_esps_page_has_the_events_of_the_code(
    esp: Esp, name: str | None, event_type: EventType
) -> None:
    """What depends on more than the event's name has several rows, which say on what."""
    meanings = [row[1] for row in rows(esp_page(esp)) if row[0].startswith(code(name))]

    assert any(meaning.startswith(code(event_type)) for meaning in meanings)


REASONS = [
    pytest.param(esp, name, reason, id=f"{esp.key}-{name}")
    for esp, table in (
        (mailgun.esp, mailgun.REASONS),
        (resend.esp, resend.BOUNCE_WORDS | resend.BOUNCE_SUBTYPES | resend.SUPPRESSIONS),
        (sendgrid.esp, sendgrid.BOUNCE_TYPES | sendgrid.DROP_REASONS),
    )
    for name, reason in table.items()
]


@pytest.mark.parametrize(("esp", "name", "reason"), REASONS)
def test_an_esps_page_has_the_reasons_of_the_code(
    esp: Esp, name: str | None, reason: RejectReason
) -> None:
    """A row that tells the provider's word and ours, and nothing else."""
    told = {row[0].replace("`", "") for row in rows(esp_page(esp)) if row[1:] == (code(reason),)}

    assert told & {name, f"has the words {name}"}
