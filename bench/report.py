"""Writes the results as JSON, as tables, and as the marked block of docs/performance.md.

Invariant: every table is made only from what is in the JSON, so it can be made again and shows only measurements.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import comparison
from bench.errors import BenchError
from bench.targets import Attainment, judge
from bench.turns import Outcome
from bench.workloads import WORKLOADS, Figure, Workload

BEGIN = "<!-- bench: the part below is written by scripts/bench --write-docs -->"
END = "<!-- bench: the part above is written by scripts/bench --write-docs -->"
FORMAT = 1
OURS = "dicomd-"
DURABILITIES = ("dicomd-none", "dicomd-fsync")
"""The variants of dicomd that are compared with other receivers."""


@dataclass
class Results:
    """One run of the benchmark: when and where it ran, what was measured, and all figures of every turn."""

    started: str
    machine: dict[str, str]
    receivers: dict[str, dict[str, str]]  # name: title, version
    turns: int
    scale: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    trouble: str = ""

    def title(self, receiver: str) -> str:
        """Return the receiver's name for people."""
        return self.receivers.get(receiver, {}).get("title", receiver)


def to_json(results: Results) -> str:
    """Write all raw figures, with their medians and ratios."""
    document: dict[str, Any] = {"format": FORMAT, **asdict(results)}
    document["medians"] = {
        f"{workload.name} {figure.key}": medians
        for workload in WORKLOADS
        for figure in workload.figures
        if (medians := _medians(results, workload, figure))
    }
    document["ratios"] = {
        f"{workload.name} {figure.key} {ours}/{peer}": round(value, 3)
        for workload, figure in _compared(results)
        for ours, peer in _pairs(results)
        if (value := _ratio(results, workload, figure, ours, peer)) is not None
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Results:
    """Read what to_json wrote. Raises BenchError for anything else."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise BenchError(f"the results have format {document['format']}, but this benchmark reads format {FORMAT}")
        return Results(
            started=document["started"],
            machine=document["machine"],
            receivers=document["receivers"],
            turns=document["turns"],
            scale=document["scale"],
            outcomes={name: Outcome(**outcome) for name, outcome in document["outcomes"].items()},
            trouble=document["trouble"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"not results of this benchmark: {error}") from error


def _medians(results: Results, workload: Workload, figure: Figure) -> dict[str, float]:
    found = {
        receiver: comparison.median(results.outcomes, workload.name, receiver, figure.key)
        for receiver in results.receivers
    }
    return {receiver: value for receiver, value in found.items() if value is not None}


def _ratio(results: Results, workload: Workload, figure: Figure, ours: str, peer: str) -> float | None:
    medians = _medians(results, workload, figure)
    return comparison.ratio(figure, medians.get(ours), medians.get(peer))


def _pairs(results: Results) -> list[tuple[str, str]]:
    peers = [name for name in results.receivers if not name.startswith(OURS)]
    return [(ours, peer) for ours in results.receivers if ours in DURABILITIES for peer in peers]


def _compared(results: Results) -> list[tuple[Workload, Figure]]:
    return [(w, f) for w in WORKLOADS if w.name in results.outcomes for f in w.figures if f.compared]


def width(text: str) -> int:
    """Return how many columns the text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table so that it is readable on a terminal: first column left-aligned, the others right."""
    widths = [max(3, *(width(row[column]) for row in (head, *rows))) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = [" " * (widths[column] - width(cell)) for column, cell in enumerate(cells)]
        body = [cells[0] + first, *(space + cell for space, cell in zip(others, cells[1:], strict=True))]
        return "| " + " | ".join(body) + " |"

    rule = "|" + "|".join([":" + "-" * (widths[0] + 1), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def number(value: float | None, digits: int) -> str:
    """Format a number with thousands separators; None as a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    """Format a ratio: two decimals below ten, one below a hundred, else none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def median_table(results: Results) -> str:
    """Show workloads as rows and receivers as columns; a table for each set of receivers that get the same work."""
    tables = []
    for group in dict.fromkeys(workload.receivers for workload in WORKLOADS):
        names = [receiver.name for receiver in group if receiver.name in results.receivers]
        rows = []
        for workload in WORKLOADS:
            if workload.name not in results.outcomes or workload.receivers != group:
                continue
            for figure in workload.figures:
                if not (medians := _medians(results, workload, figure)):
                    continue
                title = f"{workload.title}, {figure.title}" if figure.title else workload.title
                rows.append([title, figure.unit, *(number(medians.get(name), figure.digits) for name in names)])
        if rows:
            tables.append(table(["work", "unit", *(results.title(name) for name in names)], rows))
    return "\n\n".join(tables)


def ratio_table(results: Results) -> str:
    """Show workloads as rows, and a column for each pair of a durability and a peer; above 1, dicomd is better."""
    pairs = _pairs(results)
    head = ["how many times as good", *(f"{ours.removeprefix(OURS)} : {peer}" for ours, peer in pairs)]
    rows = []
    for workload, figure in _compared(results):
        ratios = [_ratio(results, workload, figure, ours, peer) for ours, peer in pairs]
        if any(value is not None for value in ratios):
            rows.append([workload.title, *(times(value) for value in ratios)])
    return table(head, rows) if rows and pairs else ""


def target_table(attainments: Sequence[Attainment], results: Results) -> str:
    """Show each target with what was measured."""
    rows = []
    for attainment in attainments:
        target = attainment.target
        bound = (
            f"≥ {times(target.bound)} of {results.title(target.against)}" if target.against else f"≤ {target.bound:g}"
        )
        measured = times(attainment.measured) if target.against else number(attainment.measured, 2)
        rows.append([f"{target.text} ({results.title(target.receiver)})", bound, measured, attainment.word])
    return table(["target", "bound", "measured", ""], rows)


def not_run(results: Results) -> list[str]:
    """Return a line for each reason why something wasn't run, with the work, and the receivers unless it was all."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for name, outcome in results.outcomes.items():
        for receiver, reason in outcome.not_run.items():
            reasons.setdefault(reason, {}).setdefault(receiver, []).append(name)
    lines = []
    for reason, found in reasons.items():
        work = ", ".join(dict.fromkeys(name for names in found.values() for name in names))
        everywhere = set(found) == set(results.receivers)
        into = "" if everywhere else " into " + ", ".join(results.title(receiver) for receiver in found)
        lines.append(f"- {work}{into}: {reason}")
    return lines


def conditions(results: Results) -> str:
    """Describe in one paragraph where and when the results were measured."""
    versions = ", ".join(
        f"{entry['title']} {entry['version']}" for entry in _without_twice(results.receivers) if entry["version"]
    )
    machine = ", ".join(f"{value}" if key == "cpu" else f"{key} {value}" for key, value in results.machine.items())
    least = "" if results.scale >= 1 else f" A quick run with {results.scale:.0%} of the work."
    return f"{results.started}. {machine}. {versions}. Medians of {results.turns} turns.{least}"


def _without_twice(receivers: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, entry in receivers.items():
        ours = name.startswith(OURS)
        found.setdefault("dicomd" if ours else name, {"title": "dicomd" if ours else entry["title"], **_version(entry)})
    return list(found.values())


def _version(entry: Mapping[str, str]) -> dict[str, str]:
    return {"version": entry.get("version", "")}


def target_page(results: Results) -> str:
    """Show only the targets, including those not run."""
    parts = [conditions(results), target_table(judge(results.outcomes), results), "\n".join(not_run(results))]
    return "\n\n".join(part for part in parts if part)


def page(results: Results) -> str:
    """Show everything as Markdown."""
    parts = [conditions(results)]
    if results.trouble:
        parts.append(f"**Incomplete:** {results.trouble.splitlines()[0]}")
    if any(outcome.measured for outcome in results.outcomes.values()):
        parts.append(median_table(results))
    if ratios := ratio_table(results):
        parts.append("Ratios of dicomd, with its durability, to a peer. Above 1, dicomd is better.\n\n" + ratios)
    attainments = [attainment for attainment in judge(results.outcomes) if attainment.measured is not None]
    if attainments:
        parts.append("Targets for dicomd:\n\n" + target_table(attainments, results))
    if reasons := not_run(results):
        parts.append("Not run:\n\n" + "\n".join(reasons))
    return "\n\n".join(parts)


def write_block(document: Path, content: str) -> None:
    """Replace the text between the marks of a document. Raises BenchError unless it has both, once and in order."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end or BEGIN in old + after or END in before + after:
        raise BenchError(f"{document} has no place for the tables: it needs these two marks\n{BEGIN}\n{END}")
    document.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")
