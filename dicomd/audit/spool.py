"""The spool: a folder with a file a message, for a collector to take away, or to be sent on from here.

The rule it keeps: a file under its final name is a whole message, synced; names sort by time. The folder is bounded, so
that messages which nobody takes away don't fill a disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from dicomd.audit.messages import Rendered

MOST_MESSAGES = 100_000
"""Files in the folder; some 200 MB."""
_COUNT_LASTS = 10.0  # seconds for which the number of files is believed
_ABANDONED = 600.0  # seconds after which a temporary file is nobody's any more
_SUFFIX = ".xml"
_NAME = re.compile(r"(\d{4})(\d\d)(\d\dT\d\d)(\d\d)(\d\d\.\d{6}Z)-\d+-\d+-(\d+)\.xml", re.ASCII)
"""Of a message: when, which process, its number there, how the event went. All else is somebody else's file."""


class Spool:
    """The folder, as one process uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._files = 0
        self._counted = -_COUNT_LASTS
        self._held: int | None = None

    def put(self, messages: list[Rendered]) -> None:
        """Keep messages, which leave the list as they are kept. Raises OSError, with those left that aren't."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._count() + len(messages) > MOST_MESSAGES:
            raise OSError(errno.ENOSPC, f"{MOST_MESSAGES} audit messages are waiting", str(self._folder))
        while messages:
            self._write(messages[0])
            self._files += 1
            del messages[0]
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, message: Rendered) -> None:
        self._number += 1
        stamp = message.timestamp.replace("-", "").replace(":", "")
        # the outcome is needed for the syslog header, and a collector can tell failures from it
        name = f"{stamp}-{os.getpid()}-{self._number}-{message.outcome}"
        temporary = self._folder / f".{name}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            try:
                _write_all(fd, message.xml)
                os.fdatasync(fd)
            finally:
                os.close(fd)
            temporary.rename(self._folder / f"{name}{_SUFFIX}")
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _count(self) -> int:
        if time.monotonic() - self._counted >= _COUNT_LASTS:
            self._files, self._counted = sum(1 for _ in self._names()), time.monotonic()
        return self._files

    # -- sending on ------------------------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Be the one process that sends on, as long as this process lives; False where another one is."""
        if self._held is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                return False
            self._held = fd
            self._remove_abandoned()
        return True

    def release(self) -> None:
        """Let another process send on."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def oldest(self, count: int) -> list[tuple[Path, Rendered]]:
        """The oldest messages, `count` at most. Raises OSError."""
        found = []
        for name in sorted(self._names())[:count]:
            if match := _NAME.fullmatch(name):
                year, month, hour, minute, second, outcome = match.groups()
                path = self._folder / name
                with contextlib.suppress(FileNotFoundError):  # a collector was quicker
                    xml = path.read_bytes()
                    found.append((path, Rendered(f"{year}-{month}-{hour}:{minute}:{second}", outcome, xml)))
        return found

    def remove(self, paths: list[Path]) -> None:
        """Forget messages that have been delivered. Raises OSError."""
        for path in paths:
            path.unlink(missing_ok=True)
        self._files = max(0, self._files - len(paths))

    def _names(self) -> Iterator[str]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    yield entry.name

    def _remove_abandoned(self) -> None:
        """What a process that died was writing."""
        for path in self._folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
