"""Measures what log lines and metrics cost: dicomd's CPU time for one 4 KiB object, with and without them.

All variants do the same work, side by side. CPU time is measured rather than elapsed time, so that other activity on
the machine matters little. The journal is replaced by a socket whose input is discarded: dicomd's share of the work is
measured, but not journald's own.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import blast, processes
from bench.errors import BenchError, BlastError
from bench.receivers import Dicomd, Place, Running, running
from bench.report import table
from bench.scratch import Scratch
from bench.turns import rotated
from bench.workloads import settle

SIZE = 4096
WARM_UP, OBJECTS, ROUNDS = 300, 6000, 24
SCRAPES = 30
_MOUNT = (
    'mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$0" /run/systemd/journal && exec "$@"'
)


class Variant(Dicomd):
    """dicomd with one way of logging; `counted` says whether it updates its metrics."""

    def __init__(self, durability: str, name: str, title: str, log: str, *, counted: bool = True) -> None:
        super().__init__(durability)
        self.name, self.title = f"{durability}-{name}", title
        self._log, self._counted = log, counted
        self.journal = Path()
        """The folder of the socket in journald's place."""

    @property
    def to_journal(self) -> bool:
        """Whether this variant logs to the journal."""
        return "journald" in self._log

    def missing(self) -> str:
        """Without root, journald's socket can't be replaced, as that takes a mount namespace."""
        if self.to_journal and (os.geteuid() or not shutil.which("unshare")):
            return "replacing journald's socket needs root"
        return ""

    def command(self, place: Place) -> list[str]:
        """The command of `Dicomd`, with this variant's log."""
        python, _, _, *words = super().command(place)
        config = Path(words[-1])
        config.write_text(f"{config.read_text()}[log]\n{self._log}\n")
        started = [python, "-m", "dicomd" if self._counted else "bench.uncounted", *words]
        if not self.to_journal:
            return started
        mounted = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT]
        return [*mounted, str(self.journal), *started]


def variants(durability: str) -> list[Variant]:
    """Return the variants. The others are compared with the first."""
    return [
        Variant(durability, "quiet", "no line per instance", 'format = "json"\ninstances = false'),
        Variant(durability, "json", "one line per instance, JSON", 'format = "json"'),
        Variant(durability, "journald", "one line per instance, journal", 'format = "journald"'),
        Variant(durability, "uncounted", "no line and no metrics", 'format = "json"\ninstances = false', counted=False),
    ]


@dataclass(frozen=True)
class Cost:
    """The result of one turn of a variant: CPU microseconds per object, and milliseconds per scrape."""

    object_us: float
    scrape_ms: float


@contextlib.contextmanager
def journal(folder: Path) -> Iterator[Path]:
    """Receive and discard datagrams at `folder/socket`, in a process of its own; yields the folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "socket"))
        reader = multiprocessing.get_context("fork").Process(target=_discard, args=(sock,), daemon=True)
        reader.start()
        try:
            yield folder
        finally:
            reader.kill()
            reader.join()


def _discard(sock: socket.socket) -> None:
    buffer = bytearray(1 << 18)
    while True:
        sock.recv_into(buffer)


def _blast(started: Running, count: int) -> None:
    """Send objects over one Association. Raises BenchError."""
    try:
        figures = blast.blast(blast.Order("store", count, SIZE), started.place.address, 1)
    except (BlastError, OSError) as error:
        raise BenchError(str(error)) from error
    if figures["failed"] or figures["count"] != count:
        raise BenchError(f"{started.receiver.title}: {figures}")


def _scrape(started: Running) -> float:
    """Measure the CPU milliseconds of one scrape."""
    before = processes.cpu_seconds(started.pid)
    for _ in range(SCRAPES):
        with urllib.request.urlopen(f"http://127.0.0.1:{started.place.http_port}/metrics", timeout=30) as answer:
            answer.read()
    return 1e3 * (processes.cpu_seconds(started.pid) - before) / SCRAPES


def _side_by_side(started: dict[str, Running], scale: float) -> dict[str, Cost]:
    """Run one turn: all variants run at once, and in each round every variant gets a few objects.

    Other activity on the machine and its host changes within seconds, and so do caches and clock frequencies. Rounds of
    a few tenths of a second spread all of that evenly over the variants.
    """
    for one in started.values():
        _blast(one, WARM_UP)
    settle(round(OBJECTS * scale) * SIZE * len(started))
    used = dict.fromkeys(started, 0.0)
    count, rounds = OBJECTS // ROUNDS, max(1, round(ROUNDS * scale))
    for number in range(rounds):
        for name in rotated(list(started), number):
            before = processes.cpu_seconds(started[name].pid)
            _blast(started[name], count)
            used[name] += processes.cpu_seconds(started[name].pid) - before
    return {name: Cost(1e6 * used[name] / (rounds * count), _scrape(one)) for name, one in started.items()}


def run(turns: int, scale: float, scratch: Path, say: Callable[[str], None]) -> dict[str, list[Cost]]:
    """Measure every variant; return the costs of each turn by variant. Raises BenchError."""
    place = Scratch(scratch)
    found: dict[str, list[Cost]] = {}
    try:
        for turn in range(turns):
            for durability in ("none", "fsync"):
                with contextlib.ExitStack() as stack:
                    started: dict[str, Running] = {}
                    for variant in variants(durability):
                        if reason := variant.missing():
                            say(f"{variant.name}: {reason}")
                            continue
                        variant.journal = stack.enter_context(journal(stack.enter_context(place.folder("journal"))))
                        started[variant.name] = stack.enter_context(running(variant, place))
                    for name, cost in _side_by_side(started, scale).items():
                        found.setdefault(name, []).append(cost)
                        say(f"turn {turn + 1}/{turns}  {name:<18} {cost.object_us:6.1f} µs per object")
    finally:
        place.remove()
    return found


def page(found: dict[str, list[Cost]]) -> str:
    """Show medians, and the median increase over the first variant in the same turn."""
    rows = []
    for durability in ("none", "fsync"):
        base: list[Cost] = []
        for variant in variants(durability):
            if not (costs := found.get(variant.name)):
                continue
            median = statistics.median(cost.object_us for cost in costs)
            base = base or costs
            above = statistics.median(
                cost.object_us / other.object_us - 1 for cost, other in zip(costs, base, strict=False)
            )
            scrape = statistics.median(cost.scrape_ms for cost in costs)
            rows.append(
                [
                    f"{durability}: {variant.title}",
                    f"{median:.1f}",
                    f"{100 * above:+.1f} %",
                    f"{scrape:.1f}",
                ]
            )
    return table(["durability: variant", "CPU µs per object", "above the first", "CPU ms per scrape"], rows)


def to_json(found: dict[str, list[Cost]]) -> str:
    """Return every turn's results as JSON."""
    return json.dumps({name: [vars(cost) for cost in costs] for name, costs in found.items()}, indent=1) + "\n"
