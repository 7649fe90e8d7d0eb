"""The tables in docs/senders.md, which are measured: read to be compared, and rewritten after a change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.unit.docs.markdown import rows

PAGE = Path(__file__).parents[2] / "docs/senders.md"


def documented(name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    _, part, _ = _parts(name)
    return {row[0]: row for row in rows(part)}


def rewrite(name: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> None:
    """Replace a table."""
    lines = (head, ["---"] * len(head), *body)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    before, _, after = _parts(name)
    PAGE.write_text(f"{before}\n{table}\n{after}", encoding="utf-8")


def _parts(name: str) -> tuple[str, str, str]:
    """The page up to the table, the table, and the rest. Raises ValueError if the marks of the table are missing."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- generated: {name} -->\n")
    part, end, after = rest.partition(f"\n<!-- end: {name} -->")
    if not (begin and end):
        raise ValueError(f"{PAGE} has no table {name!r}")
    return before + begin, part, end + after
