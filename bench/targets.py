"""The targets that dicomd must meet: each has a figure, the receiver that it is compared with, and a bound.

The durability is part of each target. If the other receiver syncs nothing and the target is about the data path, dicomd
runs with `none`; if it is about what an operator gets, with its default, `fsync`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bench import comparison, workloads
from bench.turns import Outcome, Step


@dataclass(frozen=True)
class Target:
    """A figure must be at least `bound` times as good as that of the receiver `against`, or without it at most `bound`.

    `against_workload` is the workload of the other receiver if that is a different one with the same figure.
    """

    text: str
    workload: str
    figure: str
    receiver: str
    bound: float
    against: str = ""
    against_workload: str = ""


@dataclass(frozen=True)
class Attainment:
    """What was measured for a target, None if it wasn't run."""

    target: Target
    measured: float | None

    @property
    def word(self) -> Literal["met", "not met", "not run"]:
        """Whether the target is met, in words."""
        if self.measured is None:
            return "not run"
        target = self.target
        met = self.measured >= target.bound if target.against else self.measured <= target.bound
        return "met" if met else "not met"


TARGETS = (
    Target("storescu", "storescu-100x512K", "seconds", "dicomd-fsync", 15, "dcmtk"),
    Target("storescu", "storescu-100x512K", "seconds", "dicomd-none", 15, "dcmtk"),
    Target("dcmsend", "dcmsend-100x512K", "seconds", "dicomd-fsync", 15, "dcmtk"),
    Target("dcmsend", "dcmsend-100x512K", "seconds", "dicomd-none", 15, "dcmtk"),
    Target("512 KiB, 1 Association", "blast-512K-c1", "per_s", "dicomd-none", 1, "dcmtk"),
    Target("512 KiB, 4 Associations", "blast-512K-c4", "per_s", "dicomd-none", 1, "dcmtk"),
    Target("4 KiB, 1 Association", "blast-4K-c1", "per_s", "dicomd-none", 1, "dcmtk"),
    Target("Associations/s", "associations", "per_s", "dicomd-none", 4, "dcmtk"),
    Target("Associations/s", "associations", "per_s", "dicomd-none", 100, "pynetdicom"),
    Target("512 KiB, 1 Association", "blast-512K-c1", "per_s", "dicomd-fsync", 2, "pynetdicom"),
    Target("512 KiB, 8 Associations", "blast-512K-c8", "per_s", "dicomd-fsync", 2.5, "pynetdicom"),
    Target("1 GB object, time", "one-1GB", "seconds", "dicomd-none", 1 / 1.2, "dcmtk"),
    Target("1 GB object, peak memory MB", "one-1GB", "peak_memory_mb", "dicomd-none", 16),
    Target("1 GB object, peak memory MB", "one-1GB", "peak_memory_mb", "dicomd-fsync", 16),
    Target("TLS: 512 KiB, 4 Associations", "tls-512K-c4", "per_s", "dicomd-none", 0.95, "dcmtk"),
    Target(
        "TLS: 512 KiB, 4 Associations, against plain",
        "tls-512K-c4",
        "per_s",
        "dicomd-none",
        3,
        "pynetdicom",
        against_workload="blast-512K-c4",
    ),
    Target("4 KiB, 16 Associations", "workers-4K-c16", "per_s", "dicomd-none-w2", 1.5, "dicomd-none-w1"),
    Target("200 idle Associations, % of a core", "idle-200", "cpu_percent", "dicomd-fsync", 1),
    Target("200 idle Associations, memory MB", "idle-200", "memory_mb", "dicomd-fsync", 100),
)


def _other(target: Target) -> str:
    """Return the workload of the receiver that a target compares with."""
    return target.against_workload or target.workload


def plan() -> list[Step]:
    """Return the smallest plan that measures everything the targets need."""
    steps = []
    for workload in workloads.WORKLOADS:
        names = {target.receiver for target in TARGETS if target.workload == workload.name}
        names |= {target.against for target in TARGETS if _other(target) == workload.name and target.against}
        if names:
            steps.append(Step(workload, tuple(r for r in workload.receivers if r.name in names)))
    return steps


def judge(outcomes: Mapping[str, Outcome]) -> list[Attainment]:
    """Return the attainment of each target."""
    attainments = []
    for target in TARGETS:
        figure = next(f for f in workloads.BY_NAME[target.workload].figures if f.key == target.figure)
        measured = comparison.median(outcomes, target.workload, target.receiver, target.figure)
        if target.against:
            other = comparison.median(outcomes, _other(target), target.against, target.figure)
            measured = comparison.ratio(figure, measured, other)
        attainments.append(Attainment(target, measured))
    return attainments
