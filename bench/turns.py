"""Runs the plan in turns, and keeps every figure of every turn.

Rule: within a turn of a workload every receiver gets the work once, each freshly started and alone on the machine as
far as the benchmark can see to it, and each turn begins with another receiver, so that no one always follows the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench.certificates import Certificates
from bench.errors import BenchError
from bench.receivers import Dicomd, Receiver, running
from bench.scratch import Scratch
from bench.workloads import Workload

Item = TypeVar("Item")
Figures = dict[str, float]


@dataclass(frozen=True)
class Step:
    """A workload and the receivers it is for."""

    workload: Workload
    receivers: tuple[Receiver, ...]


@dataclass
class Outcome:
    """What came of a workload: the figures of each turn by receiver, and why others weren't run."""

    measured: dict[str, list[Figures]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """How to run a plan: turns, the share of each workload's work, where all files go, TLS or why there is none."""

    turns: int
    scale: float
    scratch: Scratch
    certificates: Certificates | None = None
    tls_missing: str = ""


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The items in their order, beginning with number `turn` (0 is the first)."""
    at = turn % len(items) if items else 0
    return [*items[at:], *items[:at]]


def reason_against(workload: Workload, receiver: Receiver, terms: Terms) -> str:
    """Why the receiver can't be given the workload; "" if it can."""
    if reason := workload.missing() or receiver.missing():
        return reason
    if workload.tls and terms.certificates is None:
        return terms.tls_missing
    if workload.tls and not receiver.tls:
        return "no TLS"
    if receiver.association_limit and workload.associations() > receiver.association_limit:
        return f"takes {receiver.association_limit} Associations at most"
    return ""


def probe_tls(scratch: Scratch, certificates: Certificates) -> str:
    """Why dicomd can't be reached over TLS; "" if a C-ECHO was answered."""
    try:
        with running(Dicomd("none"), scratch, certificates, ready_within=5.0):
            return ""
    except BenchError as error:
        lines = str(error).splitlines()  # what happened, and at the end the receiver's own last line
        return f"dicomd has no TLS listener that answers: {lines[0]}, {lines[-1]}"


def measure(plan: Sequence[Step], terms: Terms, outcomes: dict[str, Outcome], say: Callable[[str], None]) -> None:
    """Carries out the plan, adding to `outcomes` by workload name as it goes. Raises BenchError."""
    for step in plan:
        outcome = outcomes.setdefault(step.workload.name, Outcome())
        able = []
        for receiver in step.receivers:
            if reason := reason_against(step.workload, receiver, terms):
                outcome.not_run[receiver.name] = reason
            else:
                able.append(receiver)
        for turn in range(terms.turns):
            for receiver in rotated(able, turn):
                certificates = terms.certificates if step.workload.tls else None
                with running(receiver, terms.scratch, certificates) as started:
                    figures = step.workload.run(started, terms.scale)
                outcome.measured.setdefault(receiver.name, []).append(figures)
                shown = ", ".join(
                    f"{figures[figure.key]:.{figure.digits}f} {figure.unit}" for figure in step.workload.figures
                )
                say(f"turn {turn + 1}/{terms.turns}  {step.workload.name:<18} {receiver.name:<13} {shown}")
