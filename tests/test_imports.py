"""Which room may import which, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flask_mailesp

ROOT = Path(flask_mailesp.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    """Return a module's path inside the package: ("esps", "postmark")."""
    return path.relative_to(ROOT).with_suffix("").parts


# What each room knows of: rooms of its own line and of the lines above.
LINES = [
    {"_version", "exceptions", "words", "records", "patterns"},
    {"address"},
    {"message", "wire", "svix", "decoding"},
    {"esp", "prepare", "headers"},
    {"results", "features", "mime", "compose", "forms"},
    {"events", "inbound", "outcomes", "rails", "retries", "limits", "breaker"}
    | {"exchange_log", "sigv4", "sns"},
    {"aws"},
    {"esps"},
    {"registry", "transport"},
    {"delivery", "config", "matrix", "fetching", "tokens"},
    {"signals", "policies", "batches"},
    {"strategies", "telemetry"},
    {"convoys"},
    {"many"},
    {"views", "extension"},
    {"__init__"},
]
LEVEL = {room: level for level, line in enumerate(LINES) for room in line}
# Tools that are built on all of it: whatever is not listed, and last what is for tests.
TOOLS, LAST = len(LINES), len(LINES) + 1
LEVEL |= {name: TOOLS for path in MODULES if (name := name_of(path)[0]) not in LEVEL}
TEST_TOOLS = {"simulator", "testing", "recording", "pytest_plugin"}
LEVEL |= dict.fromkeys(TEST_TOOLS, LAST)
# MailESP.record_messages() is for tests, and imports what it needs when it is called.
DOORS = {("extension", "recording")}
PURE = LINES[0] | LINES[1] | LINES[2] | LINES[3] | LINES[4] | LINES[5] | {"esps"}
NOT_FOR_THE_PURE = {"flask", "requests", "urllib3", "werkzeug", "socket", "http", "ssl"}


def is_type_checking(node: ast.AST) -> bool:
    """Tell an ``if TYPE_CHECKING:`` block, which imports nothing when it runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> set[tuple[str, ...]]:
    """Return what a module imports, wherever in it: ours as ("", room, ...)."""
    found: set[tuple[str, ...]] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    package = name_of(path)[:-1]
    while waiting:
        node = waiting.pop()
        if is_type_checking(node):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                module = ("", *package[: len(package) - node.level + 1], *module)
            found |= {(*module, alias.name) for alias in node.names}
    return {("", *item[1:]) if item[0] == "flask_mailesp" else item for item in found}


def rooms(path: Path) -> set[str]:
    """Return the rooms of the package that a module imports."""
    return {item[1] for item in imports(path) if item[0] == "" and item[1] in LEVEL}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(name_of(path)))
def test_imports_point_one_way(path: Path) -> None:
    """Exceptions, values; what an ESP is; the ESPs; delivery and transport; Flask."""
    room = name_of(path)[0]
    level = LEVEL[room]

    above = {other for other in rooms(path) - {room} if LEVEL[other] > level}
    assert {(room, other) for other in above} - DOORS == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(name_of(path)))
def test_pure_rooms_do_no_io(path: Path) -> None:
    """Values, prepare, the ESPs and the MIME rooms know neither Flask nor HTTP."""
    if name_of(path)[0] in PURE:
        assert {item[0] for item in imports(path)} & NOT_FOR_THE_PURE == set()


def test_no_esp_knows_another() -> None:
    """Each is one file; what two of them need belongs below them."""
    for path in (ROOT / "esps").glob("*.py"):
        others = {item[1:] for item in imports(path) if item[:2] == ("", "esps")}
        assert others <= {("esps", *name_of(path)[1:])}


def test_only_the_transport_knows_requests() -> None:
    """One narrow door."""
    for path in MODULES:
        knows = {item[0] for item in imports(path)} & {"requests", "urllib3"}
        assert not knows or name_of(path)[0] in {"transport", "simulator", "testing"}


def test_production_code_never_imports_the_simulator_or_the_test_tools() -> None:
    """Nor, at the package's door, are they found by accident."""
    for path in MODULES:
        if name_of(path)[0] not in TEST_TOOLS:
            used = {(name_of(path)[0], room) for room in rooms(path) & TEST_TOOLS}
            assert used <= DOORS, path


FIRST_APP = """
import sys, flask
before = set(sys.modules)
import flask_mailesp
app = flask.Flask("x")
app.config.update(MAILESP_ESP="postmark", MAILESP_POSTMARK_SERVER_TOKEN="t")
flask_mailesp.MailESP(app)
print(*sorted(set(sys.modules) - before))
"""


def test_importing_the_package_imports_little() -> None:
    """What only sending, parsing mail or verifying signatures needs comes with the first use."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_APP], capture_output=True, text=True, check=True
    )
    new = done.stdout.split()
    late = {"requests", "urllib3", "cryptography", "idna", "zoneinfo", "mimetypes"}
    late |= TEST_TOOLS | {"email", "ssl", "ipaddress", "difflib"}

    assert [name for name in new if late & set(name.split("."))] == []
    assert "flask_mailesp.esps.postmark" in new
    assert "flask_mailesp.esps.postal" not in new
