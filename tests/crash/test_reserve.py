"""The reserve of free space is kept at any rate: disks are filled as fast as dicomd accepts instances.

The free space is checked from outside every few milliseconds. At least nine tenths of the reserve must be free at every
check, and the space above the reserve must be used, so that no instance is refused without need.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.conftest import Figures
from tests.crash.filling import Fillers, FreeSpace
from tests.crash.power import attached, command, mounted, needs
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.raw_peer import RawPeer
from tests.support.waiting import wait_until

TIMEOUT = 60.0
KIB, MIB = 1 << 10, 1 << 20
RESERVE = 32 * MIB

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

Disk = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Make a file system with a number of MiB free, and mount it: ``disk("ext4", free=100)``."""
    point = tmp_path / "disk"
    point.mkdir()
    with contextlib.ExitStack() as stack:

        def make(kind: str, *, free: int, options: str = "mode=0755") -> Path:
            if kind == "tmpfs":
                try:
                    stack.enter_context(mounted("-t", kind, "-o", f"size={free}m,{options}", "dicomd-test", on=point))
                except subprocess.CalledProcessError:
                    pytest.skip("no tmpfs can be mounted here")
                return point
            needs(f"mkfs.{kind}")
            memory = tmp_path / "memory"  # data synced here need not reach a real disk
            memory.mkdir()
            stack.enter_context(mounted("-t", "tmpfs", "dicomd-test", on=memory))
            image = memory / "image"
            with image.open("wb") as file:
                file.truncate(max(free + 100, 320) * MIB)
            command(f"mkfs.{kind}", "-q", image)
            device = stack.enter_context(attached(image))
            stack.enter_context(mounted("-t", kind, device, on=point))
            fill(point, leave=free * MIB)
            return point

        yield make


def fill(point: Path, *, leave: int) -> None:
    """Use up the free space except for `leave` bytes."""
    with (point / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(point) - leave)
        os.fsync(file.fileno())


def free_bytes(point: Path) -> int:
    seen = os.statvfs(point)
    return seen.f_bavail * seen.f_frsize


def assert_takes_one(daemon: Daemon) -> None:
    """Becomes ready again by itself, and stores an instance."""
    wait_until(daemon.ready, TIMEOUT, what="the daemon does not become ready again")
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()


def assert_reserve_kept(daemon: Daemon, watched: FreeSpace, statuses: dict[str, int], free: int, reserve: int) -> None:
    """The reserve stayed free, and the rest was used. `free`: bytes that were free before anything was sent."""
    assert set(statuses) == {"0000", "A700"}
    assert watched.looks > 50
    assert watched.least_bytes >= 0.9 * reserve
    assert watched.least_bytes <= reserve + 0.2 * (free - reserve)
    daemon.wait_no_temporary_files()
    assert len(daemon.stored()) == statuses["0000"]
    daemon.empty()
    assert_takes_one(daemon)


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("size", [4 * KIB, MIB])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
def test_the_reserve_stays_free_at_full_speed(
    start_daemon: StartDaemon, disk: Disk, figures: Figures, kind: str, size: int, workers: int
) -> None:
    """Eight Associations that send without a pause fill a disk within a second or two."""
    point = disk(kind, free=96)
    daemon = start_daemon(
        dicomd={"workers": workers}, storage={"root": str(point / "store"), "reserve_free": f"{RESERVE}B"}
    )
    free = free_bytes(point)
    with Fillers(daemon.address, size=size) as fillers, FreeSpace(point) as watched:
        fillers.go()
        statuses = fillers.statuses()
    figures(least_free=watched.least_bytes, reserve=RESERVE, looks=watched.looks, **statuses)
    assert_reserve_kept(daemon, watched, statuses, free, RESERVE)


@pytest.mark.parametrize("size", [4 * KIB, 300 * KIB])
def test_generations_that_store_at_once_keep_one_reserve(
    start_daemon: StartDaemon, disk: Disk, figures: Figures, size: int
) -> None:
    """Old generations finish their Associations at full speed while the new one accepts others."""
    point = disk("tmpfs", free=96)
    daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(point / "store"), "reserve_free": f"{RESERVE}B"})
    free = free_bytes(point)
    with contextlib.ExitStack() as stack:
        generations = []
        for _ in range(3):
            generations.append(stack.enter_context(Fillers(daemon.address, size=size, count=3)))
            daemon.reload()
        assert len(daemon.worker_pids()) > 2
        with FreeSpace(point) as watched:
            for fillers in generations:
                fillers.go()
            statuses = {"0000": 0, "A700": 0}
            for fillers in generations:
                for status, count in fillers.statuses().items():
                    statuses[status] = statuses.get(status, 0) + count
    figures(least_free=watched.least_bytes, reserve=RESERVE, looks=watched.looks, **statuses)
    assert_reserve_kept(daemon, watched, statuses, free, RESERVE)


def test_inodes_are_left_free_at_full_speed(start_daemon: StartDaemon, disk: Disk, figures: Figures) -> None:
    """A twentieth of all inodes, if there are few."""
    inodes = 8000
    point = disk("tmpfs", free=400, options=f"mode=0755,nr_inodes={inodes}")
    daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(point / "store")})
    reserve = inodes // 20
    with Fillers(daemon.address, size=4 * KIB) as fillers, FreeSpace(point) as watched:
        fillers.go()
        statuses = fillers.statuses()
    figures(least_free=watched.least_files, reserve=reserve, looks=watched.looks, **statuses)
    assert set(statuses) == {"0000", "A700"}
    assert 0.9 * reserve <= watched.least_files <= reserve + 0.2 * (inodes - reserve)
    daemon.empty()
    assert_takes_one(daemon)
