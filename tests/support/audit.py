"""What tests know of audit messages: the standard's schema, and how a spool is read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lxml import etree


@cache
def schema() -> etree.RelaxNG:
    """The schema of PS3.15 A.5.1."""
    return etree.RelaxNG(etree.parse(Path(__file__).parent / "audit-message.rng"))


def valid(xml: bytes) -> etree._Element:
    """A message, which has to be valid."""
    root = etree.fromstring(xml)
    schema().assertValid(root)
    return root


def spooled(folder: Path) -> list[etree._Element]:
    """The messages in a spool, in their order, each of them valid."""
    return [valid(path.read_bytes()) for path in sorted(folder.glob("*.xml"))]


def event(root: etree._Element) -> str:
    """What a message is about: the code of its EventTypeCode where there is one, else of its EventID."""
    codes = root.xpath("EventIdentification/EventTypeCode/@csd-code")
    return str((codes or root.xpath("EventIdentification/EventID/@csd-code"))[0])
