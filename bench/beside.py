"""Compares this dicomd with another version of it, side by side: `./scripts/bench --against VERSION`.

In each turn both versions get the same work, one right after the other, and take turns in going first. So whatever
changes slowly on the machine changes both figures of a turn alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench import comparison, receivers, workloads
from bench.receivers import Dicomd
from bench.report import OURS, Results, conditions, not_run, number, table
from bench.turns import Figures, Step
from bench.versions import Version
from bench.workloads import Figure

MUST_NOT_SLOW = ("blast-4K-c1", "blast-512K-c1", "blast-512K-c4", "associations", "tls-512K-c4")
"""The workloads that --must-show selects: those of dicomd's targets that need dicomd's own time, without the disk's."""
_BETWEEN = "@"  # in the names of receivers, between a variant of dicomd and another version


def must_show() -> list[Step]:
    """Return the plan that --must-show selects, before the other version is added."""
    return [Step(workloads.BY_NAME[name], (receivers.BY_NAME["dicomd-none"],)) for name in MUST_NOT_SLOW]


def pairs(plan: Sequence[Step], other: Version) -> list[Step]:
    """Return a plan with a step for each variant of dicomd in `plan`, in which both versions of it get the work."""
    return [
        Step(step.workload, (receiver, Dicomd(receiver.durability, receiver.workers, other)))
        for step in plan
        for receiver in step.receivers
        if isinstance(receiver, Dicomd)
    ]


def has_pairs(results: Results) -> bool:
    """Tell whether the results compare two versions."""
    return any(_BETWEEN in name for name in results.receivers)


def page(results: Results) -> str:
    """Show the medians of both versions, their ratio, and in how many turns this version was ahead."""
    rows = []
    for name, outcome in results.outcomes.items():
        workload = workloads.BY_NAME[name]
        for other, theirs in outcome.measured.items():
            ours = outcome.measured.get(other.partition(_BETWEEN)[0], [])
            if _BETWEEN not in other or not ours:
                continue
            title = other.partition(_BETWEEN)[0].removeprefix(OURS)
            for figure in workload.figures:
                words = ", ".join(word for word in (workload.title, figure.title, title) if word)
                rows.append([words, figure.unit, *_compared(figure, ours, theirs)])
    label = next((name.partition(_BETWEEN)[2] for name in results.receivers if _BETWEEN in name), "other")
    head = ["work", "unit", "this", label, f"this : {label}", "median ratio of a turn", "ahead in"]
    parts = [conditions(results), "Above 1, this version is better.", table(head, rows), "\n".join(not_run(results))]
    if results.trouble:
        parts.insert(1, f"**Incomplete:** {results.trouble.splitlines()[0]}")
    return "\n\n".join(part for part in parts if part)


def _compared(figure: Figure, ours: Sequence[Figures], theirs: Sequence[Figures]) -> list[str]:
    medians = []
    for turns in (ours, theirs):
        found = comparison.summary(turns, figure.key)
        medians.append(found.median if found else None)
    each = [
        ratio
        for mine, other in zip(ours, theirs, strict=False)  # an interrupted turn has only one of them
        if (ratio := comparison.ratio(figure, mine.get(figure.key), other.get(figure.key))) is not None
    ]
    return [
        *(number(median, figure.digits) for median in medians),
        number(comparison.ratio(figure, *medians), 3),
        number(statistics.median(each) if each else None, 3),
        f"{sum(ratio > 1 for ratio in each)} of {len(each)}",
    ]
