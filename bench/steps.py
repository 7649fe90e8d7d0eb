"""Counts the system calls and Python bytecodes that one instance costs a worker: `./scripts/bench --steps`.

Unlike times, the counts hardly depend on the machine and on what else it does, so small differences between two
versions can be seen. They say nothing of how long a step takes: a sync counts as much as a clock read.

Each count is the difference of two runs that send `n` and `2n` instances over one Association, divided by `n`, so that
the costs of the start, of the Association and of the first instances cancel. Threads that do hardly anything are left
out: they do their work at intervals and not for an instance.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bench import blast, processes
from bench.encoding import InstanceStream
from bench.errors import BenchError, BlastError
from bench.receivers import Dicomd, Place, Running, running
from bench.report import number, table
from bench.scratch import Scratch
from bench.versions import Version

SIZES = {4096: 500, 524288: 100}
"""Bytes of Pixel Data, and the number of instances that are sent of them: the `n` above."""
DURABILITIES = ("none", "fsync")
WARM_UP = 20  # instances
LISTED = 20  # functions
WAITS = ("futex", "restart_syscall")
"""System calls that are shown but not added up: whether a thread has to wait for a lock is a matter of time."""
_SHOWN = 0.05  # per instance
_IDLE = 0.1
"""A thread, or those that began in the same function, are left out if they did less than this share of the busiest."""
_ATTACHED_WITHIN = 10.0  # seconds
_TRACED = Path(__file__).with_name("traced.py")
_CALL = re.compile(r"(\d+) +(\w+)\(")
"""A line of strace: thread ID and system call. The end of a call that another thread interrupted doesn't match."""

Counts = Mapping[str, float]


@dataclass(frozen=True)
class Steps:
    """What one instance costs: its system calls by name, and its bytecodes by function."""

    calls: dict[str, float]
    bytecodes: dict[str, float]


Found = dict[str, dict[str, list[Steps]]]
"""The steps of each turn, by case and by the label of the version."""


class Traced(Dicomd):
    """dicomd with one worker, which counts the bytecodes that its threads execute and writes them into `counts`."""

    def __init__(self, durability: str, version: Version, counts: Path) -> None:
        super().__init__(durability, 1, version)
        self._counts = counts

    def command(self, place: Place) -> list[str]:
        """The command of `Dicomd`, run by traced.py."""
        python, _, _, *words = super().command(place)
        return [python, str(_TRACED), str(self._counts), *words]


def case_name(durability: str, size: int) -> str:
    """Name what is measured, for people."""
    return f"{durability}, {size >> 10} KiB"


def busy(threads: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Add up the counts of the threads that have worked for the instances."""
    found = list(threads)
    most = max((sum(counts.values()) for counts in found), default=0)
    return sum((Counter(counts) for counts in found if sum(counts.values()) >= _IDLE * most), Counter())


def per_instance(once: Counter[str], twice: Counter[str], count: int) -> dict[str, float]:
    """Return what one instance costs, by name; `twice` was counted with `count` instances more than `once`."""
    costs = {name: (twice[name] - once[name]) / count for name in once.keys() | twice.keys()}
    return {name: cost for name, cost in sorted(costs.items(), key=lambda item: -item[1]) if cost}


def threads_of(trace: str) -> list[Counter[str]]:
    """Count the system calls in the output of `strace -f -o`, for each thread."""
    found: dict[str, Counter[str]] = {}
    for line in trace.splitlines():
        if call := _CALL.match(line):
            found.setdefault(call[1], Counter())[call[2]] += 1
    return list(found.values())


def worker_of(started: Running, association: blast.Association) -> int:
    """Find the process that serves the Association. Raises BenchError if none does."""
    local = f"0100007F:{started.place.port:04X}"
    remote = f"0100007F:{association.sock.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == [local, remote]:
            for pid in processes.tree(started.pid):
                if f"socket:[{fields[9]}]" in _descriptors(pid):
                    return pid
    raise BenchError(f"no process of {started.receiver.title} has the connection of the Association")


def _descriptors(pid: int) -> set[str]:
    found = set()
    for link in (processes.PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            found.add(str(link.readlink()))
    return found


@contextlib.contextmanager
def attached(output: Path, pid: int) -> Iterator[None]:
    """Have strace write each system call of the process into `output` during the `with` block. Raises BenchError."""
    words = ["strace", "-f", "-s", "0", "-e", "signal=none", "-o", str(output), "-p", str(pid)]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + _ATTACHED_WITHIN
        while not all(_has_tracer(task) for task in (processes.PROC / str(pid) / "task").iterdir()):
            if process.poll() is not None or time.monotonic() >= deadline:
                process.kill()
                raise BenchError(f"strace can't attach: {process.communicate()[1].decode(errors='replace').strip()}")
            time.sleep(0.01)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate()


def _has_tracer(task: Path) -> bool:
    try:
        return "TracerPid:\t0\n" not in (task / "status").read_text()
    except OSError:  # a thread that has ended in the meantime
        return True


@contextlib.contextmanager
def _nothing_more(_worker: int) -> Iterator[None]:
    yield


def _send(
    started: Running, size: int, count: int, counting: Callable[[int], AbstractContextManager[None]] = _nothing_more
) -> int:
    """Send a few instances, and then, within `counting(worker)`, `count` more over the same Association.

    Returns the process ID of the worker. Raises BenchError.
    """
    try:
        association = blast.Association(started.place.address)
        stream = InstanceStream.encode(size, association.maximum_length)
        _store(association, stream, WARM_UP)
        worker = worker_of(started, association)
        with counting(worker):
            _store(association, stream, count)
        association.release()
    except (BlastError, OSError) as error:
        raise BenchError(f"{started.receiver.title}: {error}") from error
    return worker


def _store(association: blast.Association, stream: InstanceStream, count: int) -> None:
    for _ in range(count):
        stream.renew()
        if status := association.store(stream):
            raise BlastError(f"C-STORE was answered with {status:04X}")


def system_calls(version: Version, durability: str, size: int, count: int, scratch: Scratch) -> Counter[str]:
    """Count a worker's system calls while it gets `count` instances. Raises BenchError."""
    with running(Dicomd(durability, 1, version), scratch) as started:
        output = started.place.private / "strace"
        _send(started, size, count, partial(attached, output))
        return busy(threads_of(output.read_text()))


def bytecodes(version: Version, durability: str, size: int, count: int, scratch: Scratch) -> Counter[str]:
    """Count the bytecodes of a worker that was started for `count` instances, by function. Raises BenchError."""
    counts = Path(
        tempfile.mkdtemp(prefix="counts-", dir=scratch.path)
    )  # the receiver's own folder is emptied at its end
    with running(Traced(durability, version, counts), scratch) as started:
        worker = _send(started, size, count)
    try:  # the worker has written its file: the supervisor ends only after it
        return busy(json.loads((counts / f"{worker}.json").read_text()).values())
    except (OSError, ValueError) as error:
        raise BenchError(f"the worker of {started.receiver.title} has written no counts: {error}") from error


def measure(version: Version, durability: str, size: int, count: int, scratch: Scratch) -> Steps:
    """Measure what one instance costs. Raises BenchError."""
    found = []
    for counted in (system_calls, bytecodes):
        once, twice = (counted(version, durability, size, n, scratch) for n in (count, 2 * count))
        found.append(per_instance(once, twice, count))
    return Steps(*found)


def run(versions: Sequence[Version], turns: int, scratch: Scratch, say: Callable[[str], None]) -> Found:
    """Measure each version in every case and turn. Raises BenchError."""
    if not shutil.which("strace"):
        raise BenchError("strace isn't installed, which counts system calls")
    found: Found = {}
    for turn in range(turns):
        for durability in DURABILITIES:
            for size, count in SIZES.items():
                case = case_name(durability, size)
                for version in versions:
                    steps = measure(version, durability, size, count, scratch)
                    found.setdefault(case, {}).setdefault(version.label, []).append(steps)
                    calls, codes = sum(steps.calls.values()), sum(steps.bytecodes.values())
                    sums = f"{calls:5.1f} calls, {codes:7.1f} bytecodes"
                    say(f"turn {turn + 1}/{turns}  {case:<15} {version.label:<10} {sums}")
    return found


def middle(turns: Sequence[Counts]) -> dict[str, float]:
    """Return the median over the turns of each count, the greatest first."""
    names = dict.fromkeys(name for turn in turns for name in turn)
    medians = {name: statistics.median(turn.get(name, 0.0) for turn in turns) for name in names}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def page(found: Found) -> str:
    """Show the sums of each case, and then what they consist of."""
    labels = list(next(iter(found.values()), {}))
    sums, parts = [], []
    for case, versions in found.items():
        calls = {label: middle([steps.calls for steps in versions[label]]) for label in labels}
        codes = {label: middle([steps.bytecodes for steps in versions[label]]) for label in labels}
        for what, counts, digits in (("system calls", calls, 1), ("bytecodes", codes, 0)):
            totals = [sum(cost for name, cost in counts[label].items() if name not in WAITS) for label in labels]
            ratios = [f"{totals[0] / total:.3f}" if total else "-" for total in totals[1:]]
            sums.append([f"{case}: {what}", *(number(total, digits) for total in totals), *ratios])
        parts.append(
            _table_by_name(f"{case}: system call", calls, [name for name in _names(calls) if _shown(calls, name)])
        )
        parts.append(_table_by_name(f"{case}: bytecodes of", codes, _most_telling(codes)))
    head = ["one instance", *labels, *(f"{labels[0]} : {label}" for label in labels[1:])]
    return "\n\n".join([table(head, sums), *parts])


def _names(counts: Mapping[str, Counts]) -> list[str]:
    return list(dict.fromkeys(name for version in counts.values() for name in version))


def _shown(counts: Mapping[str, Counts], name: str) -> bool:
    return any(abs(version.get(name, 0.0)) >= _SHOWN for version in counts.values())


def _most_telling(codes: Mapping[str, Counts]) -> list[str]:
    """Return the functions that cost most, or if there are two versions, those whose costs differ most."""
    first, *others = codes.values()

    def rank(name: str) -> float:
        return abs(first.get(name, 0.0) - others[0].get(name, 0.0)) if others else first.get(name, 0.0)

    return sorted((name for name in _names(codes) if rank(name) >= _SHOWN), key=lambda name: -rank(name))[:LISTED]


def _table_by_name(head: str, counts: Mapping[str, Counts], names: Iterable[str]) -> str:
    rows = [[name, *(number(version.get(name), 1) for version in counts.values())] for name in names]
    return table([head, *counts], rows)


def to_json(found: Found) -> str:
    """Return every turn's counts as JSON."""
    document = {
        case: {label: [asdict(steps) for steps in turns] for label, turns in versions.items()}
        for case, versions in found.items()
    }
    return json.dumps(document, indent=1) + "\n"
