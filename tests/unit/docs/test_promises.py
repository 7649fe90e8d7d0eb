"""Everything that docs/ promises names the tests that show it, and all tests that are named exist.

Each promise, limit, defence or invariant on a page must link to a test file. The name of a test function must appear in
code, next to a link to the file that contains it or next to that file's path.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.unit.docs.markdown import ROOT, entries, items, links, rows, section, spans

TESTS = ROOT / "tests"
PAGES = sorted(ROOT.glob("docs/**/*.md"))
_FILE = re.compile(r"(?:[\w./-]+/)?test_\w+\.py")
_FUNCTION = re.compile(r"(test_\w+)(?:\[.*\])?")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def promises() -> list[tuple[str, str]]:
    """Everything that has to name a test: the page, and the text (of a table row, its first and last cells)."""
    found = [("durability.md", item) for item in items(section(page("durability.md"), "What is promised"))]
    found += [("architecture.md", item) for item in items(section(page("architecture.md"), "Invariants"))]
    tables = [
        ("security.md", "What is defended where"),
        ("limits.md", "Limits"),
        ("limits.md", "Beside Associations"),
    ]
    found += [(name, f"{row[0]}: {row[-1]}") for name, heading in tables for row in rows(section(page(name), heading))]
    return found


def files_named(text: str) -> set[Path]:
    """The test files that a text in docs/ names by a link or by path."""
    found = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(text)}
    found |= {ROOT / span for span in spans(text) if span.startswith("tests/")}
    return {path for path in found if path.is_relative_to(TESTS) and _FILE.fullmatch(path.name)}


def functions_named(text: str) -> set[str]:
    """The test functions that a text names, without parameters; fixtures and folders with such names are left out."""
    return {found[1] for span in spans(text) if (found := _FUNCTION.fullmatch(span))}


@cache
def functions(file: Path) -> frozenset[str]:
    """The test functions of a file, including those in classes."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return frozenset(
        node.name
        for body in (tree.body, *(each.body for each in classes))
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def without_test(name: str, text: str) -> str:
    """The problem if a promise names no test, else ""."""
    if files_named(text):
        return ""
    return f"docs/{name} names no test that shows: {' '.join(text.split())}"


def problems(name: str, text: str) -> list[str]:
    """The problems with the tests that a page names."""
    found = []
    known = {path.name for path in TESTS.rglob("test_*.py")}
    for entry in entries(text):
        files = files_named(entry)
        missing = {str(path.relative_to(ROOT)) for path in files if not path.exists()}
        bare = {span for span in spans(entry) if re.fullmatch(r"test_\w+\.py", span)}
        found += [f"docs/{name}: there is no {file}" for file in sorted(missing | (bare - known))]
        there = {function for file in files if file.exists() for function in functions(file)}
        for function in sorted(functions_named(entry) - there):
            where = ", ".join(sorted(path.name for path in files)) or "a file that is named next to it"
            found.append(f"docs/{name}: there is no {function} in {where}")
    return found


@pytest.mark.parametrize(("name", "text"), promises(), ids=lambda value: value[:50])
def test_a_promise_names_the_test_that_shows_it(name: str, text: str) -> None:
    assert without_test(name, text) == ""


def test_none_is_overlooked() -> None:
    """The sections and tables are found: otherwise a restructured page would pass as one without promises."""
    counts = {name: sum(where == name for where, _ in promises()) for name, _ in promises()}
    bullets = len(re.findall(r"^- \*\*", section(page("durability.md"), "What is promised"), re.MULTILINE))
    assert counts.pop("durability.md") == bullets > 0
    assert counts.keys() == {"architecture.md", "limits.md", "security.md"}
    assert min(counts.values()) > 10


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(path: Path) -> None:
    assert problems(path.name, path.read_text(encoding="utf-8")) == []


def test_a_promise_without_its_test_is_seen() -> None:
    for text in ("Nothing\n  is lost.", "See `tests/unit/docs`.", "See [this](../tests/unit/docs/markdown.py)."):
        assert without_test("a.md", text).startswith("docs/a.md names no test that shows: ")
    for text in ("See [this](../tests/unit/docs/test_links.py).", "See `tests/unit/docs/test_links.py`."):
        assert without_test("a.md", text) == ""


def test_a_test_that_is_not_there_is_seen() -> None:
    text = """\
- One [`test_links.py`](../tests/unit/docs/test_links.py) (`test_a_broken_link_is_seen`, `test_gone`).
- Two `tests/unit/docs/test_gone.py`, and `test_gone.py`.

| a | b |
|---|---|
| `test_a_broken_link_is_seen[x-y]` | [`test_links.py`](../tests/unit/docs/test_links.py) |
| three | `test_a_broken_link_is_seen` |
"""
    assert problems("a.md", text) == [
        "docs/a.md: there is no test_gone in test_links.py",
        "docs/a.md: there is no test_gone.py",
        "docs/a.md: there is no tests/unit/docs/test_gone.py",
        "docs/a.md: there is no test_a_broken_link_is_seen in a file that is named next to it",
    ]
