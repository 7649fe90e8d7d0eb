"""The space above the reserve, taken by processes and threads at the same time, in any order."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from dicomd.ipc.pending_writes import PendingWritesTable
from dicomd.store import room as of_room
from dicomd.store.condition import StoreCondition
from dicomd.store.directories import Directories
from dicomd.store.errors import OutOfSpace, StoreUnavailable
from dicomd.store.room import INSTANCE, Room
from dicomd.store.space import Space

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DEADLINE = 10.0


class Disk:
    """A simulated file system; `during` is called whenever its free space is checked."""

    def __init__(self, *, avail: int) -> None:
        self.space = Space(avail, 2 * avail, 0, 0)
        self.looks = 0
        self.during = lambda: None

    def look(self, _root: str) -> Space:
        self.looks += 1
        self.during()
        seen = self.space
        self.during()
        return seen

    def use(self, size: int, files: int = 0) -> None:
        self.space = replace(
            self.space, avail_bytes=self.space.avail_bytes - size, files_avail=self.space.files_avail - files
        )


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(avail=100 * MIB)
    monkeypatch.setattr(of_room.space, "look", made.look)
    return made


def rooms(count: int, reserve: int) -> list[Room]:
    """The rooms of `count` processes that share one reserve."""
    pending = PendingWritesTable(count, lambda: range(count))
    made = [Room("/", reserve, StoreCondition(reserve, Directories("/"))) for _ in range(count)]
    for slot, room in enumerate(made):
        room.share(pending.of(slot))
    return made


class Writer:
    """Fills a disk with instances of any length, one step at a time."""

    def __init__(self, room: Room, disk: Disk, chance: random.Random) -> None:
        self._room, self._disk, self._chance = room, disk, chance
        self._taken = self._granted = 0
        self._looks = False
        self.refused = 0

    def step(self) -> None:
        """Take room, or use room taken before; do nothing during a step in progress."""
        if self._looks:
            return
        if self._taken:
            if self._chance.random() < 0.9:  # otherwise it is given up, as for an object that was refused
                self._disk.use(self._granted)
            self._room.settle(self._taken)
            self._taken = 0
            return
        size = self._chance.choice((4 * KIB, 64 * KIB, 250 * KIB))
        if size == 4 * KIB and (piece := self._room.claim_piece()):
            self._taken, self._granted = piece, INSTANCE + size
            return
        self._looks = True
        try:
            self._taken, self._granted = self._room.claim(INSTANCE + size, 0)
        except OutOfSpace:
            self.refused += 1
        finally:
            self._looks = False


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_between_the_reserve_stays_free(disk: Disk, seed: int) -> None:
    """Other processes take, write and settle before and after each check of the free space, in any order."""
    chance = random.Random(seed)
    reserve = chance.choice((MIB, 32 * MIB))
    disk.use(disk.space.avail_bytes - reserve - 20 * MIB)
    writers = [Writer(room, disk, chance) for room in rooms(chance.choice((1, 2, 5)), reserve) for _ in range(4)]
    depth = 0

    def during() -> None:
        nonlocal depth
        if depth < 5 and chance.random() < 0.5:
            depth += 1
            for _ in range(chance.randrange(5)):
                chance.choice(writers).step()
            depth -= 1

    disk.during = during
    while sum(writer.refused for writer in writers) < 100:
        chance.choice(writers).step()
        assert disk.space.avail_bytes >= reserve
    assert disk.space.avail_bytes <= reserve + len(writers) * 300 * KIB  # some may still hold room


def test_it_is_looked_at_sooner_the_closer_the_reserve_gets(disk: Disk) -> None:
    (room,) = rooms(1, 64 * MIB)
    looks = []
    with pytest.raises(OutOfSpace, match="Free space is below the reserve"):
        while True:
            before = disk.looks
            taken, granted = room.claim(64 * KIB, 0)
            looks.append(disk.looks - before)
            disk.use(granted)
            room.settle(taken)
    assert sum(looks[:100]) < sum(looks[-100:])
    assert sum(looks) < len(looks) / 2
    assert 64 * MIB <= disk.space.avail_bytes < 65 * MIB


def test_inodes_are_counted_with_the_instances_under_way(disk: Disk) -> None:
    disk.space = Space(GIB, GIB, 2000, 20_000)
    (room,) = rooms(1, 0)
    with pytest.raises(OutOfSpace, match="Free inodes are below the reserve"):
        while True:
            taken = room.claim_piece() or room.claim(INSTANCE, 0)[0]
            disk.use(0, files=8)
            room.settle(taken)
    assert 1000 <= disk.space.files_avail < 1100


def test_what_a_process_keeps_for_itself_is_given_back(disk: Disk) -> None:
    idle, busy = rooms(2, 64 * MIB)
    for _ in range(2):  # the second time in advance
        idle.settle(idle.claim(64 * KIB, 0)[0])
        disk.use(64 * KIB)
        while piece := idle.claim_piece():
            idle.settle(piece)
    idle.adjust_to(disk.space, on_xfs=False)
    disk.use(disk.space.avail_bytes - 64 * MIB - 100 * KIB)
    busy.claim(100 * KIB, 0)
    with pytest.raises(OutOfSpace):
        busy.claim(4 * KIB, 0)


def test_a_file_system_that_does_not_say_is_a_failed_store(disk: Disk) -> None:
    (room,) = rooms(1, MIB)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    disk.during = fail
    with pytest.raises(StoreUnavailable) as raised:
        room.claim(64 * KIB, 0)
    assert (raised.value.operation, raised.value.errno) == ("statvfs", "EIO")
    disk.during = lambda: None
    disk.use(disk.space.avail_bytes - MIB - 64 * KIB)
    room.claim(64 * KIB, 0)  # all of it, as no room is held for the one that failed


def test_whoever_waits_for_the_file_system_keeps_nobody_else_waiting(disk: Disk) -> None:
    (room,) = rooms(1, MIB)
    waiting, answer = threading.Event(), threading.Event()

    def hang() -> None:
        if threading.current_thread() is hanging:
            waiting.set()
            assert answer.wait(DEADLINE)

    disk.during = hang
    hanging = threading.Thread(target=room.claim, args=(64 * KIB, 0))
    hanging.start()
    try:
        assert waiting.wait(DEADLINE)
        room.settle(room.claim(64 * KIB, 0)[0])
        room.adjust_to(disk.space, on_xfs=False)
        disk.use(disk.space.avail_bytes - MIB - 100 * KIB)
        with pytest.raises(OutOfSpace):  # the room that the other one waits for still counts
            room.claim(64 * KIB, 0)
    finally:
        answer.set()
        hanging.join()
    room.claim(36 * KIB, 0)


def test_an_xfs_may_allot_twice_what_a_file_has(disk: Disk) -> None:
    (room,) = rooms(1, MIB)
    room.adjust_to(disk.space, on_xfs=True)
    assert room.claim(64 * KIB, 0) == ((64 + 128) * KIB, 64 * KIB)
    nearly_full = replace(disk.space, size_bytes=30 * disk.space.avail_bytes)
    room.adjust_to(nearly_full, on_xfs=True)
    assert room.claim(64 * KIB, 10 * MIB - 64 * KIB) == (64 * KIB + (20 * MIB >> 3), 64 * KIB)
