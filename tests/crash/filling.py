"""Fills a disk as fast as dicomd accepts instances, and watches its free space all the while.

Senders and watcher are separate processes, so that none of them waits for another's interpreter.

    python -m tests.crash.filling send HOST PORT SIZE REFUSALS    one Association; ends after so many refusals
    python -m tests.crash.filling watch PATH                      until its standard input ends
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.blast import Association, Receiver
from bench.encoding import InstanceStream

_INTERVAL = 0.002  # seconds between two checks of the free space
_DEADLINE = 120.0


def _send(host: str, port: int, size: int, refusals: int) -> dict[str, int]:
    """Send until refused `refusals` times in a row; return how often each status was answered."""
    statuses: dict[str, int] = {}
    association = Association(Receiver(port, host))
    _say("open")
    sys.stdin.readline()
    stream = InstanceStream.encode(size, association.maximum_length)
    in_a_row = 0
    while in_a_row < refusals:
        stream.renew()
        status = association.store(stream)
        in_a_row = in_a_row + 1 if status else 0
        statuses[f"{status:04X}"] = statuses.get(f"{status:04X}", 0) + 1
    association.release()
    return statuses


def _watch(path: str) -> dict[str, int]:
    """Return the number of checks, and the least free space that was seen, in bytes and inodes."""
    looks, least_bytes, least_files = 0, sys.maxsize, sys.maxsize
    _say("watching")
    while not select.select([sys.stdin], [], [], _INTERVAL)[0]:
        seen = os.statvfs(path)
        looks += 1
        least_bytes = min(least_bytes, seen.f_bavail * seen.f_frsize)
        least_files = min(least_files, seen.f_favail)
    return {"looks": looks, "bytes": least_bytes, "files": least_files}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _Program:
    def __init__(self, *arguments: str | int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.filling", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def wait(self, word: bytes) -> None:
        """Wait until the process prints `word`. Raises AssertionError if it prints anything else."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def go(self) -> None:
        """Let the process begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, int]:
        """The result that the process prints at its end. Raises AssertionError if it fails."""
        try:
            output, _ = self._process.communicate(timeout=_DEADLINE)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        assert self._process.returncode == 0, output
        found: dict[str, int] = json.loads(output)
        return found

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class FreeSpace:
    """A context manager that watches the free space of the file system at `path`; see `least_bytes` afterwards."""

    looks = least_bytes = least_files = 0

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._program = _Program("watch", str(self._path))
        self._program.wait(b"watching")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        found = self._program.result()
        self.looks, self.least_bytes, self.least_files = found["looks"], found["bytes"], found["files"]


class Fillers:
    """A context manager with `count` senders of instances with `size` bytes of Pixel Data.

    Their Associations are open once it has been entered; they send without a pause from `go` on.
    """

    def __init__(self, address: tuple[str, int], *, size: int, count: int = 8, refusals: int = 20) -> None:
        self._arguments = ("send", *address, size, refusals)
        self._count = count

    def __enter__(self) -> Self:
        self._senders = [_Program(*self._arguments) for _ in range(self._count)]
        try:
            for sender in self._senders:
                sender.wait(b"open")
        except BaseException:
            self._kill()
            raise
        return self

    def go(self) -> None:
        """Let the senders begin."""
        for sender in self._senders:
            sender.go()

    def statuses(self) -> dict[str, int]:
        """Wait until all have been refused; return how often each status was answered."""
        found: dict[str, int] = {}
        while self._senders:
            sender = self._senders.pop()
            for status, count in sender.result().items():
                found[status] = found.get(status, 0) + count
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for sender in self._senders:
            sender.kill()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", host, port, size, refusals]:
            _say(json.dumps(_send(host, int(port), int(size), int(refusals))))
        case ["watch", path]:
            _say(json.dumps(_watch(path)))
