"""Runs the plan in turns, and keeps every figure of every turn.

Within a turn of a workload, every receiver gets the work once, freshly started and, as far as the benchmark can ensure
it, alone on the machine. Each turn begins with another receiver, so that none always follows the same one.
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
    """A workload, and the receivers that get it."""

    workload: Workload
    receivers: tuple[Receiver, ...]


@dataclass
class Outcome:
    """The results of a workload: the figures of each turn by receiver, and why other receivers weren't run."""

    measured: dict[str, list[Figures]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """How to run a plan: turns, the share of the work, the folder for all files, and TLS or why there is none."""

    turns: int
    scale: float
    scratch: Scratch
    certificates: Certificates | None = None
    tls_missing: str = ""


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """Rotate the items so that they begin with number `turn` (0 is the first)."""
    at = turn % len(items) if items else 0
    return [*items[at:], *items[:at]]


def reason_against(workload: Workload, receiver: Receiver, terms: Terms) -> str:
    """Say why the receiver can't get the workload; "" if it can."""
    if reason := workload.missing() or receiver.missing():
        return reason
    if workload.tls and terms.certificates is None:
        return terms.tls_missing
    if workload.tls and not receiver.tls:
        return "no TLS"
    if receiver.association_limit and workload.associations() > receiver.association_limit:
        return f"accepts at most {receiver.association_limit} Associations"
    return ""


def probe_tls(scratch: Scratch, certificates: Certificates) -> str:
    """Say why dicomd can't be reached over TLS; "" if a C-ECHO was answered."""
    try:
        with running(Dicomd("none"), scratch, certificates, ready_within=5.0):
            return ""
    except BenchError as error:
        lines = str(error).splitlines()  # what happened, and at the end the receiver's own last line
        return f"dicomd can't be reached over TLS: {lines[0]}, {lines[-1]}"


def measure(plan: Sequence[Step], terms: Terms, outcomes: dict[str, Outcome], say: Callable[[str], None]) -> None:
    """Carry out the plan, adding to `outcomes` by workload name. Raises BenchError."""
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
