"""The workloads that receivers get, by name, and the figures that each one yields.

A workload first sends a little of the same kind as a warm-up, then the timed part, and finally counts what the receiver
has stored. Any failure Status or missing instance raises BenchError, since losing instances fast is no result.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import blast, objects, processes
from bench.errors import BenchError, BlastError
from bench.receivers import RECEIVERS, WORKERS, Receiver, Running, program

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Figure:
    """One figure that a workload yields: its key in the JSON, its unit, and whether more is better."""

    key: str
    title: str
    unit: str
    more_is_better: bool
    digits: int = 0
    compared: bool = True  # False: its ratios are meaningless (such as a few KB to none)


RATE = Figure("per_s", "", "objects/s", more_is_better=True)
ASSOCIATION_RATE = Figure("per_s", "", "Associations/s", more_is_better=True)
SECONDS = Figure("seconds", "", "s", more_is_better=False, digits=2)


@dataclass(frozen=True)
class Workload:
    """Work for a running receiver. A `scale` below 1 does less of it, for a quick run."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    tls: bool = False
    receivers: tuple[Receiver, ...] = field(default=RECEIVERS, kw_only=True)
    """The receivers that get this work."""

    def missing(self) -> str:
        """Say why the workload can't run here; "" if it can."""
        return ""

    def associations(self) -> int:
        """Return how many Associations it has open at once."""
        return 1

    def run(self, running: Running, scale: float) -> dict[str, float]:
        """Do the work and return the figures. Raises BenchError."""
        raise NotImplementedError


def settle(coming: int) -> None:
    """Make the cost of the next `coming` bytes that a receiver writes independent of what ran before.

    First, everything written until now is synced to the disk. Then the memory that the page cache will need is touched
    once: a virtual machine returns free memory to its host, and getting it back page by page on first use can cost
    several times as much as the receiver's own work. Only some receivers would pay for that.
    """
    os.sync()
    with contextlib.suppress(OSError, ValueError):  # without that much memory, go on without it
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        mmap.mmap(-1, max(coming + (coming >> 2), mmap.PAGESIZE), flags=flags).close()


def expect_stored(running: Running, expected: int) -> None:
    """Raise BenchError unless the receiver has stored that many instances."""
    deadline = time.monotonic() + 10  # a receiver may answer just before its count changes
    while (stored := running.receiver.stored(running.place)) != expected:
        if time.monotonic() >= deadline:
            raise BenchError(f"{running.receiver.title} stored {stored} of the {expected} instances that were sent")
        time.sleep(0.05)


@dataclass(frozen=True)
class Blast(Workload):
    """Work of the raw sender (bench/blast.py)."""

    order: blast.Order = field(default_factory=blast.Order)
    side_by_side: int = 1

    def associations(self) -> int:
        """Return the number of senders: each has one."""
        return self.side_by_side

    def _blast(self, running: Running, order: blast.Order, side_by_side: int) -> dict[str, float]:
        try:
            figures = blast.blast(order, running.place.address, side_by_side)
        except (BlastError, OSError) as error:
            raise BenchError(f"{self.name} into {running.receiver.title}: {error}") from error
        numbers = {key: float(value) for key, value in figures.items() if not isinstance(value, str)}
        if numbers["failed"]:
            raise BenchError(f"{self.name}: {running.receiver.title} failed {numbers['failed']:.0f} requests")
        return numbers

    def run(self, running: Running, scale: float) -> dict[str, float]:
        """Return the figures of blast.blast, and for one large object also the peak memory in MB."""
        stores = self.order.work == "store"
        # warm up over as many Associations as the work itself, so that each process of a receiver has had its first one
        warm = self._blast(running, replace(self.order, count=5, size=min(self.order.size, 1 << 19)), self.side_by_side)
        order = replace(self.order, count=max(1, round(self.order.count * scale)))
        settle(order.count * order.size * self.side_by_side if stores else 0)
        if self.order.count == 1:
            with processes.PeakMemory(running.pid) as peak:
                numbers = self._blast(running, order, self.side_by_side)
            numbers["peak_memory_mb"] = peak.delta / MEGABYTE
        else:
            cpu = processes.cpu_seconds(running.pid)
            numbers = self._blast(running, order, self.side_by_side)
            numbers["receiver_cores"] = (processes.cpu_seconds(running.pid) - cpu) / numbers["seconds"]
        if stores:
            expect_stored(running, round(warm["count"] + numbers["count"]))
        return numbers


@dataclass(frozen=True)
class DcmtkSender(Workload):
    """DCMTK's storescu or dcmsend sends a folder of files over one Association; its whole run is timed."""

    sender: str = "storescu"
    count: int = 100
    size: int = 524288

    def missing(self) -> str:
        """Say so if Debian's dcmtk is missing."""
        return "" if program(self.sender) else f"{self.sender} of DCMTK isn't installed"

    def _send(self, running: Running, folder: Path) -> float:
        words = [program(self.sender), "127.0.0.1", str(running.place.port), "+sd", str(folder)]
        began = time.monotonic()
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        seconds = time.monotonic() - began
        if ended.returncode:
            into = running.receiver.title
            raise BenchError(f"{self.sender} into {into} ended with {ended.returncode}: {ended.stderr}")
        return seconds

    def run(self, running: Running, scale: float) -> dict[str, float]:
        """Return the seconds that the sender took."""
        count = max(2, round(self.count * scale))
        first, files = running.place.sender / "first", running.place.sender / "files"
        objects.write_files(first, 1, self.size)
        objects.write_files(files, count, self.size)
        self._send(running, first)
        settle(count * self.size)
        seconds = self._send(running, files)
        expect_stored(running, count + 1)
        return {"seconds": seconds, "count": float(count), "per_s": count / seconds}


@dataclass(frozen=True)
class Idle(Workload):
    """Open Associations that do nothing."""

    count: int = 200
    watched: float = 10.0  # seconds

    def associations(self) -> int:
        """Return the number of idle Associations."""
        return self.count

    def run(self, running: Running, scale: float) -> dict[str, float]:
        """Return CPU time as a percentage of one core, and the additional memory in MB."""
        watched = max(2.0, self.watched * scale)
        with contextlib.ExitStack() as open_ones:
            first = blast.Association(running.place.address)
            first.echo()
            first.release()
            before = processes.memory(running.pid)
            last = first
            for _ in range(self.count):
                try:
                    last = blast.Association(running.place.address)
                except (BlastError, OSError) as error:
                    raise BenchError(f"{self.name} into {running.receiver.title}: {error}") from error
                open_ones.callback(last.abandon)
            time.sleep(1.0)  # what opening them has triggered must not be counted
            cpu, began = processes.cpu_seconds(running.pid), time.monotonic()
            time.sleep(watched)
            seconds = time.monotonic() - began
            used = processes.cpu_seconds(running.pid) - cpu
            grown = processes.memory(running.pid) - before
        return {"cpu_percent": 100 * used / seconds, "memory_mb": grown / MEGABYTE, "seconds": seconds}


def _blast(
    name: str, title: str, count: int, size: int, side_by_side: int, *, tls: bool = False, window: int = 1
) -> Blast:
    # Stop after a few seconds with a slow receiver: that is enough for a rate, and keeps the turns close together.
    order = blast.Order("store", count, size, at_most=4.0, window=window)
    return Blast(name, title, (RATE,), tls, order, side_by_side)


def _associations(name: str, title: str, work: blast.Work, count: int, *, tls: bool = False) -> Blast:
    order = blast.Order(work, count, 4096, per_association=1, at_most=4.0)
    return Blast(name, title, (ASSOCIATION_RATE,), tls, order, 1)


PEAK = Figure("peak_memory_mb", "peak memory", "MB", more_is_better=False, digits=1, compared=False)
RECEIVERS_CPU = Figure("receiver_cores", "CPU", "cores", more_is_better=False, digits=2, compared=False)
SENDERS_CPU = Figure("senders_cores", "CPU of the senders", "cores", more_is_better=False, digits=2, compared=False)
IDLE_CPU = Figure("cpu_percent", "CPU", "% of a core", more_is_better=False, digits=2, compared=False)
IDLE_MEMORY = Figure("memory_mb", "memory", "MB", more_is_better=False, digits=1, compared=False)

WORKLOADS: tuple[Workload, ...] = (
    DcmtkSender("storescu-100x512K", "100 of 512 KiB from DCMTK's storescu", (SECONDS,), sender="storescu"),
    DcmtkSender("dcmsend-100x512K", "100 of 512 KiB from DCMTK's dcmsend", (SECONDS,), sender="dcmsend"),
    _blast("blast-512K-c1", "512 KiB, 1 Association", 800, 524288, 1),
    _blast("blast-512K-c4", "512 KiB, 4 Associations", 300, 524288, 4),
    _blast("blast-512K-c8", "512 KiB, 8 Associations", 150, 524288, 8),
    _blast("blast-4K-c1", "4 KiB, 1 Association", 4000, 4096, 1),
    _blast("blast-4K-c8", "4 KiB, 8 Associations", 1000, 4096, 8),
    _blast("window-512K-c1", "512 KiB, 1 Association, window of 8", 800, 524288, 1, window=8),
    _blast("window-4K-c1", "4 KiB, 1 Association, window of 8", 4000, 4096, 1, window=8),
    _associations("associations", "Associations, opened and released", "nothing", 1000),
    _associations("associations-echo", "Associations with one C-ECHO", "echo", 1000),
    _associations("associations-4K", "Associations with one 4 KiB object", "store", 1000),
    Blast("one-1GB", "one object of 1 GB", (SECONDS, PEAK), order=blast.Order("store", 1, 1_000_000_000)),
    Blast(
        "workers-4K-c16",
        "4 KiB, 16 Associations",
        (RATE, RECEIVERS_CPU, SENDERS_CPU),
        order=blast.Order("store", 2000, 4096, at_most=4.0),
        side_by_side=16,
        receivers=WORKERS,
    ),
    Idle("idle-200", "200 idle Associations", (IDLE_CPU, IDLE_MEMORY)),
    _blast("tls-512K-c1", "TLS: 512 KiB, 1 Association", 400, 524288, 1, tls=True),
    _blast("tls-512K-c4", "TLS: 512 KiB, 4 Associations", 200, 524288, 4, tls=True),
    _blast("tls-512K-c8", "TLS: 512 KiB, 8 Associations", 100, 524288, 8, tls=True),
    _blast("tls-window-512K-c1", "TLS: 512 KiB, 1 Association, window of 8", 400, 524288, 1, tls=True, window=8),
    _associations("tls-associations", "TLS: Associations, opened and released", "nothing", 500, tls=True),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
