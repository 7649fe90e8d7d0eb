"""Measures what a hostile crowd costs a normal sender, and what it leaves behind: ./scripts/bench --crowd.

dicomd runs as shipped, with its default limits, a plain and a TLS listener. In turns, the sender works without the
crowd and beside it. Beside it, it works for as long as the limit that cuts most of the crowd, so that all of these are
cut and replaced once in each turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from bench import blast, certificates, processes
from bench.certificates import Certificates
from bench.crowd import REQUEST_TIMEOUT, Crowd, Tally, kinds
from bench.errors import BenchError, BlastError
from bench.receivers import Dicomd, Place, Running, free_port, running
from bench.report import number, table, times
from bench.scratch import Scratch, empty

SIZE = 1 << 16
ALONE, BESIDE = 5.0, REQUEST_TIMEOUT  # seconds of work in each turn
COMES_WITHIN = 20.0  # seconds for the whole crowd to connect, and for the workers to see that it has gone
ALL_CUT_WITHIN = 60.0
RESTS = 15.0  # seconds after the last connection has been cut: idle threads have ended by then
SHARE, GROWTH, LATE = 0.8, 1.2, 2.0  # part of the growth is due to first use, and happens only once
MEGABYTE = 1_000_000


class TwoListeners(Dicomd):
    """dicomd with its default limits and a second listener, which uses TLS."""

    limits = ()

    def __init__(self, durability: str, made: Certificates) -> None:
        super().__init__(durability)
        self.certificates = made
        self.tls_port = free_port()

    def command(self, place: Place) -> list[str]:
        """The command of `Dicomd`, with another listener."""
        words = super().command(place)
        lines = [
            "[[listen]]",
            'name = "tls"',
            f'address = "127.0.0.1:{self.tls_port}"',
            "tls = true",
            "[tls]",
            f"certificate = {json.dumps(str(self.certificates.certificate))}",
            f"key = {json.dumps(str(self.certificates.key))}",
        ]
        with Path(words[-1]).open("a") as config:
            config.write("\n".join(lines) + "\n")
        return words


@dataclass(frozen=True)
class Use:
    """What the workers use: resident memory in bytes, descriptors, threads, connections."""

    memory: int
    descriptors: int
    threads: int
    connections: int


@dataclass
class Siege:
    """The turns of one durability: the sender's rates in objects per second, and what the workers used."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    before: Use = field(default_factory=lambda: Use(0, 0, 0, 0))
    during: list[Use] = field(default_factory=list)
    between: list[Use] = field(default_factory=list)
    after: Use = field(default_factory=lambda: Use(0, 0, 0, 0))
    tallies: dict[str, Tally] = field(default_factory=dict)
    crowd_cores: float = 0.0

    @property
    def share(self) -> float:
        """The sender's rate beside the crowd, as a share of the rate without it."""
        return statistics.median(self.beside) / statistics.median(self.alone)


@dataclass(frozen=True)
class Goal:
    """A target: the figure must be at least or at most `bound`."""

    text: str
    sign: Literal["≥", "≤"]
    bound: float
    measured: float

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.measured >= self.bound if self.sign == "≥" else self.measured <= self.bound


def goals(siege: Siege, durability: str) -> list[Goal]:
    """Return the targets of a siege."""
    latest = max(tally.latest for tally in siege.tallies.values())
    earliest = min(tally.earliest for tally in siege.tallies.values())
    return [
        Goal(f"{durability}: rate beside the crowd / without it", "≥", SHARE, siege.share),
        Goal(f"{durability}: memory afterwards / before", "≤", GROWTH, siege.after.memory / siege.before.memory),
        Goal(
            f"{durability}: additional descriptors afterwards",
            "≤",
            0,
            siege.after.descriptors - siege.before.descriptors,
        ),
        Goal(f"{durability}: latest cut, s after its deadline", "≤", LATE, latest),
        Goal(f"{durability}: earliest cut, s after its deadline", "≥", -0.5, earliest),
    ]


def use(started: Running) -> Use:
    """Measure what the workers use now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{started.place.http_port}/status", timeout=30) as answer:
        workers = json.load(answer)["workers"]
    pids = [worker["pid"] for worker in workers]
    return Use(
        sum(processes.status_bytes(pid, "VmRSS") for pid in pids),
        sum(_descriptors(pid, started.place.store) for pid in pids),
        sum(len(list((processes.PROC / str(pid) / "task").iterdir())) for pid in pids),
        sum(worker["connections"] for worker in workers),
    )


def _descriptors(pid: int, store: Path) -> int:
    """Count descriptors, except those of instance folders: the store keeps the last ones that it used open."""
    count = 0
    for link in (processes.PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = link.readlink()
            count += not (target.is_relative_to(store) and target.is_dir() and ".dicomd" not in target.parts)
    return count


def _rate(started: Running, seconds: float) -> float:
    """Measure one sender in objects per second, then empty what it stored: the disk is not what is measured."""
    try:
        order = blast.Order("store", 10**9, SIZE, at_most=seconds)
        figures = blast.blast(order, started.place.address)
    except (BlastError, OSError) as error:
        raise BenchError(f"the sender: {error}") from error
    if figures["failed"]:
        raise BenchError(f"{figures['failed']} requests of the sender failed")
    for study in started.place.store.iterdir():
        if study.name != ".dicomd":  # the store's own folder
            empty(study)
    return float(figures["per_s"])


def _wait_for(started: Running, connections: int) -> None:
    """Wait until the workers have so many connections; they accept those waiting in the kernel one by one."""
    ends = time.monotonic() + COMES_WITHIN
    while (found := use(started).connections) != connections:
        if time.monotonic() > ends:
            raise BenchError(f"the workers have {found} connections after {COMES_WITHIN:.0f} s, not {connections}")
        time.sleep(0.1)


def _warm_up(started: Running, receiver: TwoListeners, scale: float) -> None:
    """Have all workers store and use TLS once, since what that allocates, such as libraries, stays."""
    plain = started.place.address
    secure = blast.Receiver(receiver.tls_port, tls=str(receiver.certificates.ca))
    try:
        for address in (plain, secure):
            blast.blast(blast.Order("store", 20, SIZE), address, 2 * len(os.sched_getaffinity(0)))
    except (BlastError, OSError) as error:
        raise BenchError(f"the warm-up: {error}") from error
    _rate(started, ALONE * scale)


def _besiege(started: Running, receiver: TwoListeners, turns: int, scale: float, say: Callable[[str], None]) -> Siege:
    siege = Siege()
    crowds = kinds()
    _warm_up(started, receiver, scale)
    _wait_for(started, 0)
    siege.before = use(started)
    for turn in range(turns):
        siege.alone.append(_rate(started, ALONE * scale))
        with Crowd(crowds, started.place.port, receiver.tls_port) as crowd:
            crowd.wait_for(crowd.size, COMES_WITHIN)
            _wait_for(started, crowd.size)
            siege.during.append(use(started))
            cpu, began = processes.cpu_seconds(crowd.pid), time.monotonic()
            siege.beside.append(_rate(started, BESIDE * scale))
            siege.crowd_cores += (processes.cpu_seconds(crowd.pid) - cpu) / (time.monotonic() - began) / turns
            siege.during.append(use(started))
            if turn == turns - 1:  # in the last turn, see all of them cut
                crowd.let_go()
                crowd.wait_for(0, ALL_CUT_WITHIN)
            _merge(siege.tallies, crowd.report()[0])
        _wait_for(started, 0)
        siege.between.append(use(started))
        say(f"turn {turn + 1}/{turns}  alone {siege.alone[-1]:,.0f}, beside {siege.beside[-1]:,.0f} objects/s")
    time.sleep(RESTS)
    siege.after = use(started)
    return siege


def _merge(into: dict[str, Tally], more: dict[str, Tally]) -> None:
    for name, tally in more.items():
        known = into.setdefault(name, Tally())
        known.opened, known.cut = known.opened + tally.opened, known.cut + tally.cut
        known.refused += tally.refused
        known.earliest, known.latest = min(known.earliest, tally.earliest), max(known.latest, tally.latest)


def run(
    durabilities: Sequence[str], turns: int, scale: float, scratch: Path, say: Callable[[str], None]
) -> dict[str, Siege]:
    """Run the siege of each durability. Raises BenchError."""
    place = Scratch(scratch)
    found = {}
    try:
        made = certificates.make(place.path / "certificates")
        for durability in durabilities:
            receiver = TwoListeners(durability, made)
            say(f"{durability}:")
            with running(receiver, place) as started:
                found[durability] = _besiege(started, receiver, turns, scale, say)
    finally:
        place.remove()
    return found


def page(found: dict[str, Siege]) -> str:
    """Show the tables: when connections were cut, what the workers used, and the targets."""
    parts = []
    for durability, siege in found.items():
        rows = [
            [
                name,
                number(tally.opened, 0),
                number(tally.cut, 0),
                number(tally.refused, 0),
                number(tally.earliest, 2),
                number(tally.latest, 2),
            ]
            for name, tally in siege.tallies.items()
        ]
        parts.append(
            f"{durability}: alone {statistics.median(siege.alone):,.0f}, beside the crowd "
            f"{statistics.median(siege.beside):,.0f} objects of {SIZE // 1024} KiB per second; "
            f"the crowd itself takes {siege.crowd_cores:.2f} of a core."
        )
        parts.append(table(["kind", "opened", "cut", "refused", "earliest cut, s late", "latest"], rows))
        during = max(siege.during, key=lambda one: one.memory)
        uses = [("before", siege.before), ("during (maximum)", during)]
        uses += [(f"after turn {turn}", one) for turn, one in enumerate(siege.between, 1)]
        uses += [(f"{RESTS:.0f} s after the last cut", siege.after)]
        parts.append(
            table(
                ["the workers", "memory MB", "descriptors", "threads"],
                [
                    [name, number(one.memory / MEGABYTE, 1), str(one.descriptors), str(one.threads)]
                    for name, one in uses
                ],
            )
        )
    judged = [goal for durability, siege in found.items() for goal in goals(siege, durability)]
    rows = [
        [goal.text, f"{goal.sign} {goal.bound:g}", times(goal.measured), "met" if goal.met else "not met"]
        for goal in judged
    ]
    return "\n\n".join([*parts, table(["target", "bound", "measured", ""], rows)])


def to_json(found: dict[str, Siege]) -> str:
    """Return all results as JSON."""
    return json.dumps({name: asdict(siege) for name, siege in found.items()}, indent=1) + "\n"
