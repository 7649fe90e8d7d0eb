"""Reads the project's Markdown as GitHub renders it: prose, code, links and the anchors of headings."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language ("" if none is named) and its text."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(text)]


def spans(text: str) -> list[str]:
    """The texts between single backticks, outside of fenced blocks."""
    return _CODE.findall(_FENCE.sub("", text))


def links(text: str) -> list[str]:
    """The targets of all links, outside of code."""
    return _LINK.findall(_without_code(text))


def anchors(text: str) -> set[str]:
    """The possible targets of `#…`: GitHub's slugs, with a number appended to repeated ones."""
    found: dict[str, int] = {}
    result = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


def section(text: str, heading: str) -> str:
    """The text under a heading, up to the next one of any level. Raises ValueError if the heading doesn't exist."""
    begin = re.search(rf"^#{{1,6}} {re.escape(heading)}$", text, re.MULTILINE)
    if begin is None:
        raise ValueError(f"no heading {heading!r}")
    following = _HEADING.search(text, begin.end())
    return text[begin.end() : following.start() if following else None]


def rows(text: str) -> list[list[str]]:
    """The cells of the body rows of all tables in the text."""
    lines = [line for line in _FENCE.sub("", text).splitlines() if line.startswith("|")]
    rulers = {at for at, line in enumerate(lines) if re.fullmatch(r"[|:\- ]+", line)}
    heads = {at - 1 for at in rulers}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for at, line in enumerate(lines)
        if at not in rulers | heads
    ]


def items(text: str) -> list[str]:
    """The items of all lists in the text without their markers, each with the lines indented below it."""
    return [re.sub(r"\A(?:[-*]|\d+\.) ", "", entry) for entry in entries(text) if re.match(r"(?:[-*]|\d+\.) ", entry)]


def entries(text: str) -> list[str]:
    """The independent units of text: paragraphs, list items and table rows, but no fenced blocks or headings."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", _FENCE.sub("", text)):
        found += re.split(r"\n(?=\||[-*] |\d+\. )", paragraph.strip("\n"))
    return [entry for entry in found if entry.strip() and not _HEADING.match(entry)]


def _without_code(text: str) -> str:
    return _CODE.sub("", _FENCE.sub("", text))
