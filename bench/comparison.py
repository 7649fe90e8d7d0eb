"""Computes medians over turns, and ratios of medians.

Invariant: a ratio says how many times as good the first is as the second. Above 1 means better, whether more or less of
the figure is better.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.turns import Figures, Outcome
from bench.workloads import Figure


@dataclass(frozen=True)
class Summary:
    """The median of a figure over the turns, its minimum and maximum."""

    median: float
    least: float
    greatest: float
    turns: int


def summary(turns: Sequence[Figures], key: str) -> Summary | None:
    """Summarize one figure; None if no turn has it."""
    values = [turn[key] for turn in turns if key in turn]
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), len(values))


def median(outcomes: Mapping[str, Outcome], workload: str, receiver: str, key: str) -> float | None:
    """Return the median of a figure, None if it wasn't measured."""
    outcome = outcomes.get(workload)
    found = summary(outcome.measured.get(receiver, []), key) if outcome else None
    return found.median if found else None


def ratio(figure: Figure, first: float | None, second: float | None) -> float | None:
    """Return how many times as good `first` is as `second`; None if one is missing or the divisor is zero."""
    if first is None or second is None:
        return None
    above, below = (first, second) if figure.more_is_better else (second, first)
    return above / below if below > 0 else None
