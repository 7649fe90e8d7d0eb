"""Measures memory and CPU time of a receiver, that is, of the started process and all its descendants, from /proc.

A process that ends while it is being measured is ignored.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")
SAMPLE_EVERY = 0.03  # seconds; often enough for half a second of work, and cheap


def tree(pid: int) -> list[int]:
    """Return `pid` and its living descendants."""
    found, left = [], [pid]
    while left:
        current = left.pop()
        try:
            children = [
                int(child)
                for task in (PROC / str(current) / "task").iterdir()
                for child in (task / "children").read_text().split()
            ]
        except OSError:
            continue
        found.append(current)
        left += children
    return found


def status_bytes(pid: int, name: str) -> int:
    """Read a memory figure from /proc/PID/status (VmRSS, VmHWM …) in bytes; 0 if the process is gone."""
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def proportional_bytes(pid: int) -> int:
    """Read the proportional set size (shared pages divided by their users) in bytes; 0 if the process is gone."""
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def memory(pid: int) -> int:
    """Measure the memory of the whole tree in bytes: the sum of proportional set sizes."""
    return sum(proportional_bytes(member) for member in tree(pid))


def cpu_seconds(pid: int) -> float:
    """Measure the CPU time of the living processes of the tree, with the kernel's own resolution."""
    total = 0.0
    for member in tree(pid):
        try:
            # The clock ID of another process's CPU time, as clock_getcpuclockid(3) builds it: ~pid << 3 | 2.
            total += time.clock_gettime((~member << 3) | 2)
        except OSError:
            continue
    return total


@dataclass
class PeakMemory:
    """How many bytes of memory a tree used during the `with` block, at most, above what it used at the start.

    The greater of two measurements: the sampled sum of proportional set sizes, and for processes that existed at the
    start, the kernel's own high-water mark, which also shows peaks between samples.
    """

    pid: int
    delta: int = 0
    _before: int = 0
    _resident_before: dict[int, int] = field(default_factory=dict)
    _highest: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Measure the memory at the start."""
        for member in tree(self.pid):
            try:
                (PROC / str(member) / "clear_refs").write_text("5")  # resets VmHWM to VmRSS (proc(5))
            except OSError:
                continue
            self._resident_before[member] = status_bytes(member, "VmRSS")
        self._before = memory(self.pid)
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY):
            self._highest = max(self._highest, memory(self.pid))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Compute `delta`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        grown = sum(max(0, status_bytes(member, "VmHWM") - before) for member, before in self._resident_before.items())
        self.delta = max(self._highest - self._before, grown, 0)
