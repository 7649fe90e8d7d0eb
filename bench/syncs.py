"""Compares ways to make many instances durable at once: `python -m bench.syncs` (docs/durability.md).

Invariant: each way keeps the whole order (data synced, linked, directory synced, only then the next instance), and a
sync serves only instances that were written or linked before it began. There are only plain files, threads and system
calls, without a receiver around them, so that nothing differs but the way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from bench.scratch import empty

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Instance:
    """One instance to be stored: its open temporary file, and its future directory and name."""

    fd: int
    path: str
    directory_fd: int
    name: str

    def link(self) -> None:
        """Give the instance its final name."""
        os.link(self.path, self.name, dst_dir_fd=self.directory_fd)


class Shared:
    """Runs `work` once at a time. Each caller is served by a run that began after its call."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._begun = self._done = 0
        self._running = False

    def ask(self) -> None:
        """Wait until a run that began after this call has ended."""
        with self._condition:
            mine = self._begun + 1
            while self._running and self._done < mine:
                self._condition.wait()
            if self._done >= mine:
                return
            self._running = True
            self._begun += 1
        self._work()
        with self._condition:
            self._running = False
            self._done = self._begun
            self._condition.notify_all()


class Way:
    """no syncs at all"""

    # A way to make instances durable, newly constructed for each measurement; its docstring is its title in the table.

    def store(self, instance: Instance) -> None:
        """Wait until the instance is as durable as this way makes it."""
        instance.link()

    def end(self) -> None:
        """Stop the threads of this way, if it has any."""


class Each(Way):
    """each its own: `fdatasync` of the file, `fsync` of the directory"""

    def store(self, instance: Instance) -> None:
        """As above."""
        os.fdatasync(instance.fd)
        instance.link()
        handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=instance.directory_fd)
        os.fsync(handle)
        os.close(handle)


class SharedDirectory(Way):
    """`fdatasync` of the file; one `fsync` of a directory for all who wait for it"""

    def __init__(self) -> None:
        self._directories: dict[int, Shared] = {}
        self._lock = threading.Lock()

    def store(self, instance: Instance) -> None:
        """As above."""
        os.fdatasync(instance.fd)
        instance.link()
        fd = instance.directory_fd
        with self._lock:
            shared = self._directories.setdefault(fd, Shared(lambda: os.fsync(fd)))
        shared.ask()


class SharedSyncfs(Way):
    """`syncfs` for all who wait, before the link and after it"""

    def __init__(self) -> None:
        self._shared: Shared | None = None
        self._lock = threading.Lock()

    def store(self, instance: Instance) -> None:
        """As above."""
        with self._lock:
            if self._shared is None:
                fd = instance.directory_fd
                self._shared = Shared(lambda: _LIBC.syncfs(fd))
        self._shared.ask()
        instance.link()
        self._shared.ask()


class DirectoryCommitter(Way):
    """`fdatasync` of the file; a committer syncs the directories of all who wait"""

    def __init__(self) -> None:
        self._waiting: list[tuple[Instance, threading.Event]] = []
        self._condition = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def store(self, instance: Instance) -> None:
        """As above."""
        self._before(instance)
        done = threading.Event()
        with self._condition:
            self._waiting.append((instance, done))
            self._condition.notify()
        done.wait()

    def end(self) -> None:
        """As above."""
        with self._condition:
            self._over = True
            self._condition.notify()
        self._thread.join()

    def _before(self, instance: Instance) -> None:
        os.fdatasync(instance.fd)
        instance.link()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._over:
                    self._condition.wait()
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            self._commit([instance for instance, _ in batch])
            for fd in {instance.directory_fd for instance, _ in batch}:
                os.fsync(fd)
            for _, done in batch:
                done.set()

    def _commit(self, batch: list[Instance]) -> None:
        pass


class Committer(DirectoryCommitter):
    """a committer does it all: `fdatasync` of the files one by one, links, directories"""

    def _before(self, instance: Instance) -> None:
        pass

    def _commit(self, batch: list[Instance]) -> None:
        for instance in batch:
            os.fdatasync(instance.fd)
        for instance in batch:
            instance.link()


WAYS = (Way, Each, SharedDirectory, DirectoryCommitter, Committer, SharedSyncfs)


def rate(kind: type[Way], folder: Path, side_by_side: int, series: int, size: int, seconds: float) -> float:
    """Measure the instances per second that `side_by_side` threads store into `series` directories."""
    way = kind()
    data = os.urandom(size)
    counts = [0] * side_by_side
    directories = [_directory(folder / str(number)) for number in range(series)]
    deadline = time.monotonic() + seconds

    def send(number: int) -> None:
        while time.monotonic() < deadline:
            path = f"{folder}/temporary-{number}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.write(fd, data)
            way.store(Instance(fd, path, directories[number % series], f"{number}.{counts[number]}"))
            os.unlink(path)  # noqa: PTH108  as the store does it
            os.close(fd)
            counts[number] += 1

    threads = [threading.Thread(target=send, args=(number,)) for number in range(side_by_side)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    way.end()
    for fd in directories:
        os.close(fd)
    return sum(counts) / took


def _directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


@click.command()
@click.option("--scratch", type=click.Path(path_type=Path), default=None, help="Default: the temporary folder.")
@click.option("--turns", default=5, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Duration of each measurement.")
def main(scratch: Path | None, turns: int, seconds: float) -> None:
    """Print a table of instances per second: medians over turns, in each of which every way is measured once."""
    cases = [(size, *case) for size in (4096, 524288) for case in ((1, 1), (8, 8), (8, 1))]
    found: dict[tuple[type[Way], tuple[int, int, int]], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="dicomd-syncs-", dir=scratch) as base:
        for turn in range(turns):
            for case in cases:
                for kind in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):
                    folder = Path(tempfile.mkdtemp(dir=base))
                    os.sync()
                    size, side_by_side, series = case
                    found.setdefault((kind, case), []).append(rate(kind, folder, side_by_side, series, size, seconds))
                    with contextlib.suppress(OSError):
                        empty(folder)
    columns = [f"{size >> 10} KiB, {side} Assoc., {series} series" for size, side, series in cases]
    click.echo("| way | " + " | ".join(columns) + " |")
    click.echo("|:--|" + "--:|" * len(columns))
    for kind in WAYS:
        click.echo(
            f"| {kind.__doc__} | " + " | ".join(f"{statistics.median(found[kind, case]):,.0f}" for case in cases) + " |"
        )


if __name__ == "__main__":
    main()
