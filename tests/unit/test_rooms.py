"""Checks imports between the rooms of the package against the table in docs/architecture.md.

A room may import itself, the rooms and libraries named in its row, the modules directly in `dicomd`, and the standard
library; imports inside functions and under TYPE_CHECKING count like any other. The sources are parsed, not run.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dicomd.telemetry.labels import MODULES
from tests.unit.docs.markdown import ROOT, rows, section

PACKAGE = ROOT / "dicomd"


class Room(NamedTuple):
    """The permitted imports of a room: other rooms (or single modules of them) and libraries."""

    rooms: frozenset[str]
    libraries: frozenset[str]


def _table() -> dict[str, Room]:
    """The rooms in the order of the table."""
    text = section((ROOT / "docs/architecture.md").read_text(encoding="utf-8"), "Rooms")
    cells = {re.findall(r"`([^`]+)`", name)[0]: (rooms, libraries) for name, _, rooms, libraries in rows(text)}
    every = frozenset(cells)
    return {
        name: Room(
            every if rooms == "all" else frozenset(re.findall(r"`([^`]+)`", rooms)),
            frozenset(re.findall(r"\w+", libraries)),
        )
        for name, (rooms, libraries) in cells.items()
    }


ROOMS = _table()
WITHOUT_SOCKETS = ("services", "dimse", "upperlayer", "store")
SOCKET_MODULES = frozenset({"socket", "ssl", "socketserver", "selectors", "asyncio"})
LINES_OF_A_MODULE = 400
# The documented switch that makes an SCU send a file's own bytes (pynetdicom reference, "Configuration Options").
DOCUMENTED_IN_SPITE_OF_ITS_NAME = {"cli": "pynetdicom._config"}
TOP = {path.stem for path in PACKAGE.glob("*.py")} | {"__version__"}  # facts about the whole, open to every room


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that source imports; package is the dotted package it lives in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


MADE_IN = {
    "a_abort": {"net/association.py"},
    "a_associate_rj": {"net/association.py"},
    "Rejection": {"net/access.py", "net/admission.py"},
    "Response": {"dimse/commands.py", "services/operations.py", "services/storage.py"},
}
"""The names by which code turns a failure into an answer: encoders of PDUs, rejections, responses."""


def uses(source: str, names: Collection[str]) -> set[str]:
    """Which of these names `source` calls, directly or as attributes of a module."""
    used = {node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    found = {each.id for each in used if isinstance(each, ast.Name)}
    found |= {each.attr for each in used if isinstance(each, ast.Attribute)}
    return found & set(names)


def objections(room: str, source: str, package: str) -> list[str]:
    """Return one line for each import in `source` that the table does not permit for `room`."""
    allowed = ROOMS[room]
    found = []
    for line, name in imports(source, package):
        top, _, rest = name.partition(".")
        if top == "dicomd":
            if not rest or rest.split(".")[0] in {room, *TOP}:
                continue
            if not any(f"{rest}.".startswith(f"{other}.") for other in allowed.rooms):
                found.append(f"line {line}: {room} may not import {name}")
        elif top not in allowed.libraries and top not in sys.stdlib_module_names:
            found.append(f"line {line}: {room} may not use the library {top}")
        elif top in SOCKET_MODULES and room in WITHOUT_SOCKETS:
            found.append(f"line {line}: {room} does no network I/O, it may not import {top}")
        elif name == DOCUMENTED_IN_SPITE_OF_ITS_NAME.get(room):
            continue
        elif top == "pynetdicom" and any(part.startswith("_") for part in name.split(".")):
            found.append(f"line {line}: {name} is not a documented name of pynetdicom")
    return found


def test_a_room_imports_only_rooms_below_it() -> None:
    order = list(ROOMS)
    upwards = [
        f"{name} imports {other}"
        for name, room in ROOMS.items()
        for other in room.rooms
        if name != "cli" and order.index(other.split(".")[0]) <= order.index(name)
    ]
    assert upwards == []


def test_metrics_name_the_rooms_of_the_table() -> None:
    assert set(MODULES) == set(ROOMS)


def test_a_room_imports_everything_that_its_row_names() -> None:
    for name, room in ROOMS.items():
        found = [
            imported
            for path in (PACKAGE / name).glob("*.py")
            for _, imported in imports(path.read_text(), f"dicomd.{name}")
        ]
        used = {imported.partition(".")[0] for imported in found}
        needless = [library for library in room.libraries if library not in used]
        if name != "cli":
            needless += [
                other for other in room.rooms if not any(f"{i}.".startswith(f"dicomd.{other}.") for i in found)
            ]
        assert needless == [], f"{name} doesn't use {needless}: remove it from the table"


def modules() -> list[Path]:
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [m for m in modules() if len(m.parts) > 1], ids=str)
def test_a_module_imports_only_what_its_room_may(module: Path) -> None:
    room = module.parts[0]
    assert room in ROOMS, f"{module} is in no room of the table"
    assert objections(room, (PACKAGE / module).read_text(), ".".join(["dicomd", *module.parts[:-1]])) == []


@pytest.mark.parametrize("module", [m for m in modules() if len(m.parts) == 1], ids=str)
def test_the_top_of_the_package_imports_no_room(module: Path) -> None:
    allowed = TOP | ({"cli"} if module.name == "__main__.py" else set())
    names = [name.split(".") for _, name in imports((PACKAGE / module).read_text(), "dicomd")]
    assert [name for name in names if name[0] == "dicomd" and name[1] not in allowed] == []


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_says_what_it_is_for_and_stays_small(module: Path) -> None:
    source = (PACKAGE / module).read_text()
    assert source.count("\n") < LINES_OF_A_MODULE
    assert not source.strip() or ast.get_docstring(ast.parse(source)), f"{module} opens without a docstring"


def test_a_failure_becomes_an_answer_in_its_one_place() -> None:
    found: dict[str, set[str]] = {name: set() for name in MADE_IN}
    for module in modules():
        for name in uses((PACKAGE / module).read_text(), MADE_IN):
            found[name].add(str(module))
    assert found == MADE_IN


def test_a_use_is_seen_however_it_is_written() -> None:
    assert uses("def f():\n    send(pdus.a_abort(0, 0))", MADE_IN) == {"a_abort"}
    assert uses("answer = Response(error.status)", MADE_IN) == {"Response"}
    assert uses("from x import Rejection\ndef f(one: Rejection) -> None: ...", MADE_IN) == set()


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("store", "from dicomd.net import association"),
        ("store", "from ..net.association import serve"),
        ("store", "def late():\n    import dicomd.telemetry.metrics"),
        ("services", "from dicomd.store import writer"),
        ("services", "from dicomd.store.writer import Writer"),
        ("services", "import dicomd.store"),
        ("net", "from dicomd.store import errors"),
        ("config", "import dicomd.store.layout"),
        ("dimse", "import pynetdicom.pdu"),
        ("dimse", "import socket"),
        ("cli", "from pynetdicom._globals import MODE_ACCEPTOR"),
        ("upperlayer", "if TYPE_CHECKING:\n    from dicomd.dimse import commands"),
    ],
)
def test_a_forbidden_import_is_seen(room: str, source: str) -> None:
    assert len(objections(room, source, f"dicomd.{room}")) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("services", "from dicomd.store.errors import StoreError"),
        ("services", "from dicomd.store import errors, types"),
        ("net", "import socket, ssl\nfrom dicomd.upperlayer.acceptor import Acceptor"),
        ("store", "from . import layout\nfrom .layout import path_of\nimport os"),
        ("cli", "from pynetdicom.pdu import A_ASSOCIATE_RQ"),
        ("cli", "import click\nfrom dicomd.supervisor import start"),
    ],
)
def test_an_allowed_import_is_left_alone(room: str, source: str) -> None:
    assert objections(room, source, f"dicomd.{room}") == []
