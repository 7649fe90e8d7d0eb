"""Reads audit messages for tests: validates them against the standard's schema and reads spools."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lxml import etree


@cache
def schema() -> etree.RelaxNG:
    """The schema of PS3.15 A.5.1."""
    return etree.RelaxNG(etree.parse(Path(__file__).parent / "audit-message.rng"))


def valid(xml: bytes) -> etree._Element:
    """Parse a message and assert that it is valid."""
    root = etree.fromstring(xml)
    schema().assertValid(root)
    return root


def spooled(folder: Path) -> list[etree._Element]:
    """The messages in a spool, in order, each asserted to be valid."""
    return [valid(path.read_bytes()) for path in sorted(folder.glob("*.xml"))]


def event(root: etree._Element) -> str:
    """The event that a message reports: the code of its EventTypeCode if it has one, else of its EventID."""
    codes = root.xpath("EventIdentification/EventTypeCode/@csd-code")
    return str((codes or root.xpath("EventIdentification/EventID/@csd-code"))[0])
