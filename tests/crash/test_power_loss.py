"""Power loss: flushed data is still on the disk, and unflushed data may or may not be.

An instance counts as acknowledged from the number of requests that the disk had completed when the response was read,
so only instances that were promised before a crash point are required after it. Stores that break the promise are
detected by the same means.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomd.store.filesystem import FileStore
from dicomd.store.layout import Layout
from dicomd.store.settings import StoreSettings
from tests.crash.conftest import Figures
from tests.crash.disk_log import Write
from tests.crash.power import EXT4, XFS, Crashes, FileSystem, PoweredDisk, mounted, needs
from tests.crash.senders import Ledger, Senders
from tests.crash.verdict import Verdict, judge, temporary_files
from tests.support.daemon import Daemon
from tests.support.soak import soak_seconds
from tests.support.waiting import wait_until

SEED = 1494
SIZES = (600, 600, 3000, 20_000, 150_000)
CI_POINTS = 60
"""Crash points for each file system."""
TIMEOUT = 60.0

SOAK_SHARE = 0.15
"""Share of the soak tests' time for each file system."""

pytestmark = pytest.mark.root


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: simulated disks need not be written to a real one."""
    with (
        tempfile.TemporaryDirectory(prefix="dicomd-power-") as folder,
        mounted("-t", "tmpfs", "-o", "size=2g,mode=0700", "dicomd-test", on=Path(folder)) as path,
    ):
        yield path


@dataclass
class Recording:
    """What senders sent while the disk recorded, and the disk's position at each acknowledgement."""

    disk: PoweredDisk
    requests: list[Write | None]
    ledger: Ledger
    acknowledged_at: dict[str, int]

    @property
    def end(self) -> int:
        return len(self.requests)

    def acknowledged_by(self, at: int) -> dict[str, bytes]:
        return {uid: self.ledger.sent[uid] for uid, position in self.acknowledged_at.items() if position <= at}


def record(
    disk: PoweredDisk,
    folder: Path,
    instances: dict[int, int],
    *,
    seed: int = SEED,
    durability: str = "fsync",
    sabotage: str = "",
) -> Recording:
    """Store through a real daemon: `instances` by each number of senders. `sabotage` is run at its start."""
    storage = {"root": str(disk.mount / "store"), "durability": durability}
    daemon = Daemon(folder, {"dicomd": {"workers": 2}, "storage": storage})
    if sabotage:
        (folder / "sitecustomize.py").write_text(sabotage)
        daemon.environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    ledger, acknowledged_at = Ledger(), dict[str, int]()

    def told(uid: str) -> None:
        acknowledged_at[uid] = disk.position

    try:
        daemon.start()
        for senders, count in instances.items():
            wanted = ledger.total + count
            with Senders(lambda: daemon.address, seed=seed, count=senders, sizes=SIZES, told=told, ledger=ledger):
                wait_until(lambda: ledger.total, TIMEOUT, until=lambda total, wanted=wanted: total >= wanted)
        requests = disk.requests(disk.position)
        daemon.stop()
    finally:
        if daemon.running:
            daemon.kill()
    assert ledger.refusals == []
    return Recording(disk, requests, ledger, acknowledged_at)


def some_points(recording: Recording, chance: random.Random, count: int) -> list[int]:
    """Choose crash points: half at acknowledgements, where least was written since; others at flushes and anywhere."""
    acknowledgements, first = list(recording.acknowledged_at.values()), min(recording.acknowledged_at.values())
    return sorted(
        [chance.choice(acknowledgements) for _ in range(count - count // 2)]
        + [chance.choice(flushes(recording) or [recording.end]) for _ in range(count // 4)]
        + [chance.randrange(first, recording.end + 1) for _ in range(count // 2 - count // 4)]
    )


def flushes(recording: Recording) -> list[int]:
    """The crash points at each flush after the first acknowledgement."""
    first = min(recording.acknowledged_at.values())
    return [at for at, request in enumerate(recording.requests, 1) if request is None and at > first]


def play(recording: Recording, memory: Path, points: list[int], chance: random.Random) -> Iterator[Verdict]:
    """Yield the verdict on the store after each of these crash points, in order."""
    crashes = Crashes(recording.disk, recording.requests, memory)
    for at in points:
        with crashes.mounted(crashes.survivors(at, chance)) as left:
            verdict = judge(left / "store", recording.ledger.sent, recording.acknowledged_by(at))
            start_and_sweep(left / "store")
            yield verdict


def start_and_sweep(root: Path) -> None:
    """Do what the daemon does at its next start, which must succeed and leave no temporary file."""
    settings = StoreSettings(
        layout=Layout("{SOPInstanceUID}.dcm"),
        durability="fsync",
        duplicates="keep-both",
        reserve_free=0,
        max_object_size=1 << 30,
        checksums=True,
    )
    store = FileStore(root, settings)
    store.start()
    assert store.state.accepting, store.state.reason
    store.close()
    assert temporary_files(root) == set()


def rehearse(
    memory: Path,
    folder: Path,
    file_system: FileSystem,
    chance: random.Random,
    choose: Callable[[Recording], list[int]],
    ends: float = math.inf,
) -> Counter[str]:
    """Record, and simulate the chosen crash points until `ends`; return the figures."""
    with PoweredDisk(memory, file_system) as disk:
        recording = record(disk, folder, {1: 60, 8: 300}, seed=chance.randrange(1 << 32))
    counts = Counter(
        acknowledged=recording.ledger.total,
        writes=sum(request is not None for request in recording.requests),
        flushes=sum(request is None for request in recording.requests),
    )
    points = choose(recording)
    for at, verdict in zip(points, play(recording, memory, points, chance), strict=True):
        assert not verdict.broken, (at, verdict)
        counts["crash_points"] += 1
        counts["instances_looked_for"] += len(recording.acknowledged_by(at))
        if time.monotonic() > ends:
            break
    return counts


ON_EACH = pytest.mark.parametrize("file_system", [EXT4, XFS], ids=lambda file_system: file_system.name)


@pytest.mark.slow
@pytest.mark.timeout(300)
@ON_EACH
def test_nothing_acknowledged_is_lost_by_a_power_loss(
    memory: Path, tmp_path: Path, file_system: FileSystem, figures: Figures
) -> None:
    needs(file_system.make[0])
    chance = random.Random(SEED)
    counts = rehearse(
        memory, tmp_path, file_system, chance, lambda recording: some_points(recording, chance, CI_POINTS)
    )
    figures(**counts)
    assert counts["crash_points"] == CI_POINTS
    assert counts["instances_looked_for"] > CI_POINTS


@pytest.mark.soak
@pytest.mark.timeout(soak_seconds(SOAK_SHARE) + 900)
@ON_EACH
def test_nothing_acknowledged_is_lost_by_a_power_loss_for_long(
    memory: Path, tmp_path: Path, file_system: FileSystem, figures: Figures
) -> None:
    """One recording after another, each with crashes at every flush and then at every acknowledgement."""
    needs(file_system.make[0])
    chance = random.Random(SEED)
    ends = time.monotonic() + soak_seconds(SOAK_SHARE)
    counts: Counter[str] = Counter()
    while time.monotonic() < ends:
        counts["recordings"] += 1
        folders = memory / f"{counts['recordings']}", tmp_path / f"{counts['recordings']}"
        for folder in folders:
            folder.mkdir()
        counts += rehearse(
            *folders,
            file_system,
            chance,
            lambda recording: sorted({*flushes(recording), *recording.acknowledged_at.values()}),
            ends,
        )
        for folder in folders:
            shutil.rmtree(folder)
    figures(**counts)


# Stores that break the promise, each in one way: the durability they are configured with, and the sabotage.
_WITHOUT_DIRECTORIES = """
import os, stat
fsync = os.fsync
os.fsync = lambda fd: None if stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd)
"""
LIARS = {
    "durability is none": ("none", ""),
    "directories are not synced": ("fsync", _WITHOUT_DIRECTORIES),
    "data is not synced": ("fsync", "import os\nos.fdatasync = lambda fd: None\n"),
}


@pytest.mark.slow
@pytest.mark.timeout(180)
@ON_EACH
@pytest.mark.parametrize("liar", LIARS)
def test_a_store_that_breaks_the_promise_is_found_out(
    memory: Path, tmp_path: Path, file_system: FileSystem, liar: str, figures: Figures
) -> None:
    """Shows that the test above can fail."""
    needs(file_system.make[0])
    durability, sabotage = LIARS[liar]
    with PoweredDisk(memory, file_system) as disk:
        recording = record(disk, tmp_path, {1: 30}, durability=durability, sabotage=sabotage)
    chance = random.Random(SEED)
    points = some_points(recording, chance, 20)
    broken = [verdict for verdict in play(recording, memory, points, chance) if verdict.broken]
    figures(
        crash_points=len(points),
        found_out_at=len(broken),
        lost=sum(len(verdict.lost) for verdict in broken),
        partial=sum(len(verdict.partial) for verdict in broken),
    )
    assert broken
