"""Simulates power loss any number of times: a file system on a recording disk, and the states it may be left in.

Everything covered by a flush is on the disk; of the writes after the last flush any may have survived and any may be
lost, whole or in pieces of 4 KiB. Nothing stays mounted or attached, whatever happens.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.crash.disk_log import DISK, Position, Write, read_log
from tests.support.waiting import wait_until

_DEADLINE = 30.0
_PIECE = 4096
_MIB = 1 << 20


@dataclass(frozen=True)
class FileSystem:
    """How a file system is made and mounted. Sizes in MiB; the disk is sparse."""

    name: str
    size: int
    make: tuple[str, ...]


EXT4 = FileSystem("ext4", 96, ("mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"))
XFS = FileSystem("xfs", 320, ("mkfs.xfs", "-q"))


def needs(*programs: str) -> None:
    """Skip the test if this machine lacks anything that recording a disk needs."""
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            pytest.skip(f"{device} does not exist")
    for program in ("losetup", "mount", "umount", *programs):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is not installed")
    try:
        importlib.import_module("mfusepy")
    except (ImportError, OSError) as error:
        pytest.skip(f"no FUSE library: {error} (Debian package fuse3)")


def command(*arguments: str | Path) -> str:
    """Run a system program and return its output. Raises subprocess.CalledProcessError."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        stdout=subprocess.PIPE,
        timeout=_DEADLINE * 2,
        check=True,
        text=True,
    ).stdout.strip()


@contextlib.contextmanager
def mounted(*arguments: str | Path, on: Path) -> Iterator[Path]:
    """`mount` with these arguments; unmount afterwards, lazily if it is still in use."""
    command("mount", *arguments, on)
    try:
        yield on
    finally:
        unmount(on)


def unmount(path: Path) -> None:
    """Unmount at once if no file is open there, else as soon as the last one is closed."""
    if subprocess.run(["umount", path], stderr=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["umount", "-l", path], check=False)


@contextlib.contextmanager
def attached(file: Path) -> Iterator[str]:
    """A loop device on a file. It is removed with its last user, so it can't be left behind."""
    device = command("losetup", "--find", "--show", file)
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


class PoweredDisk:
    """A context manager: `file_system` mounted at `mount`, on a disk that records from its first mount on.

    `folder` should be in memory, since nothing that is synced here needs to reach a real disk.
    """

    def __init__(self, folder: Path, file_system: FileSystem) -> None:
        self.file_system = file_system
        self.mount = folder / "mounted"
        self.pristine = folder / "pristine"
        self._image, self._fuse = folder / "image", folder / "fuse"
        self._log, position = folder / "log", folder / "position"
        self.mount.mkdir()
        self._fuse.mkdir()
        with self.pristine.open("wb") as file:
            file.truncate(file_system.size * _MIB)
        command(*file_system.make, self.pristine)
        copy(self.pristine, self._image)
        position.write_bytes(bytes(8))
        self._position = Position(position)
        self._paths = (self._image, self._log, position)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._process())
            device = stack.enter_context(attached(self._fuse / DISK))
            stack.enter_context(mounted("-t", self.file_system.name, "-o", "noatime", device, on=self.mount))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @property
    def position(self) -> int:
        """The number of requests that the disk has completed so far."""
        return self._position.read()

    def requests(self, upto: int) -> list[Write | None]:
        """The first `upto` requests."""
        return [request for _number, request in zip(range(upto), read_log(self._log), strict=False)]

    @contextlib.contextmanager
    def _process(self) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.recording_disk", self._fuse, *self._paths],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
        )
        try:
            wait_until(
                lambda: (self._fuse / DISK).exists() or process.poll() is not None,
                _DEADLINE,
                what="the recording disk does not appear",
            )
            assert process.poll() is None, "the recording disk ended"
            yield
        finally:
            unmount(self._fuse)
            try:
                process.wait(_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def copy(source: Path, target: Path) -> None:
    """Copy a disk image, keeping holes."""
    command("cp", "--sparse=always", source, target)


@dataclass(frozen=True)
class CrashPoint:
    """The power fails after `at` requests; of the writes after the last flush, `survivors` are on the disk."""

    at: int
    survivors: tuple[Write, ...]


class Crashes:
    """Reproduces the disk as it would be after each of a number of crash points, in ascending order.

    `requests` are those that the disk completed; `scratch` is a folder in memory.
    """

    def __init__(self, disk: PoweredDisk, requests: Sequence[Write | None], scratch: Path) -> None:
        self._requests = requests
        self._flushed = scratch / "flushed"  # the disk as of the last flush before the current crash point
        self._left = scratch / "left"
        self._at = scratch / "crashed"
        self._at.mkdir()
        self._name = disk.file_system.name
        self._upto = 0
        copy(disk.pristine, self._flushed)

    def survivors(self, at: int, chance: random.Random) -> CrashPoint:
        """Choose which of the writes since the last flush before `at` survive."""
        writes = [request for request in self._requests[self._last_flush(at) : at] if request is not None]
        match chance.randrange(4):
            case 0:
                kept = []
            case 1:
                kept = writes
            case 2:
                kept = [write for write in writes if chance.random() < 0.5]
            case _:
                kept = [piece for write in writes for piece in _pieces(write) if chance.random() < 0.5]
        return CrashPoint(at, tuple(kept))

    @contextlib.contextmanager
    def mounted(self, point: CrashPoint) -> Iterator[Path]:
        """Mount the disk as left by a crash point not before that of the previous call; the journal is replayed."""
        flush = self._last_flush(point.at)
        _apply(self._flushed, [request for request in self._requests[self._upto : flush] if request is not None])
        self._upto = flush
        # A mount namespace made meanwhile, by anything on this machine, holds a copy of the previous mount: its file
        # system then goes on writing to its image, and XFS would take this one for the same.
        self._left.unlink(missing_ok=True)
        copy(self._flushed, self._left)
        _apply(self._left, point.survivors)
        options = "noatime,nouuid" if self._name == XFS.name else "noatime"
        with (
            attached(self._left) as device,
            mounted("-t", self._name, "-o", options, device, on=self._at) as path,
        ):
            yield path

    def _last_flush(self, at: int) -> int:
        while at and self._requests[at - 1] is not None:
            at -= 1
        return at


def _apply(image: Path, writes: Sequence[Write]) -> None:
    descriptor = os.open(image, os.O_RDWR)
    try:
        for write in writes:
            os.pwrite(descriptor, write.data, write.offset)
    finally:
        os.close(descriptor)


def _pieces(write: Write) -> Iterator[Write]:
    for at in range(0, len(write.data), _PIECE):
        yield Write(write.offset + at, write.data[at : at + _PIECE])
