"""The spool: a folder with one file for each message, from which a collector takes them, or dicomd forwards them.

Invariant: a file under its final name is a whole message, synced; names sort by time. The folder is bounded, so that
messages that nobody collects don't fill a disk, and messages that strangers cause can fill only a part of it.
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

from dicomd.audit.messages import SERIOUS_FAILURE, Rendered, tell_delivered
from dicomd.audit.waiting import ALERTS_PART
from dicomd.syncing import sync_folder

MOST_MESSAGES = 100_000
"""Files in the folder, about 200 MB. At most one in `ALERTS_PART` of them may be a security alert."""
_COUNT_LASTS, _FULL_LASTS = 10.0, 1.0  # seconds for which a count of files is trusted, and a lack of room
_ABANDONED = 600.0  # seconds after which a temporary file counts as left by a dead process
_UNSEEN = 100  # a count holds for one part in so many of all: other processes may add as many meanwhile
_SUFFIX = ".xml"
_ALERT = f"-{SERIOUS_FAILURE}{_SUFFIX}"
_NAME = re.compile(r"(\d{4})(\d\d)(\d\dT\d\d)(\d\d)(\d\d\.\d{6}Z)-\d+-\d+-(\d+)\.xml", re.ASCII)
"""The name of a message: time, process, its number there, outcome. Any other file is somebody else's."""


class Spool:
    """The folder, as one process uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._files = self._alerts = self._added = 0
        self._counted = -_COUNT_LASTS
        self._held: int | None = None

    def put(self, messages: list[Rendered], refused: list[Rendered]) -> None:
        """Keep messages, and remove each from the list once kept; move alerts for which there is no room to `refused`.

        Raises OSError; the messages still in the list may be kept later.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        kept: list[Rendered] = []
        try:
            while messages:
                message = messages[0]
                if self._has_room(message):
                    self._write(message)
                    self._files += 1
                    self._alerts += message.is_alert
                    self._added += 1
                    kept.append(message)
                elif message.is_alert:
                    refused.append(message)
                else:
                    raise OSError(errno.ENOSPC, f"{MOST_MESSAGES} audit messages are waiting", str(self._folder))
                del messages[0]
        finally:
            if kept:
                sync_folder(self._folder)
                tell_delivered(kept)

    def _write(self, message: Rendered) -> None:
        self._number += 1
        stamp = message.timestamp.replace("-", "").replace(":", "")
        # the outcome is needed for the syslog header, and lets a collector recognize failures
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

    def _has_room(self, message: Rendered) -> bool:
        for believed in (_COUNT_LASTS, _FULL_LASTS):
            if time.monotonic() - self._counted >= believed or self._added > MOST_MESSAGES // _UNSEEN:
                self._count()
            full = message.is_alert and self._alerts >= MOST_MESSAGES // ALERTS_PART
            if not full and self._files < MOST_MESSAGES:
                return True
        return False

    def _count(self) -> None:
        self._files = self._alerts = self._added = 0
        for name in self._names():
            self._files += 1
            self._alerts += name.endswith(_ALERT)
        self._counted = time.monotonic()

    # -- forwarding ------------------------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Become the one process that forwards, for as long as it lives; return False if another one is."""
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
        """Let another process forward."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def names(self) -> list[str]:
        """Return the names of the messages that are there now, oldest first. Raises OSError."""
        return sorted(self._names())

    def read(self, names: list[str], unreadable: list[OSError]) -> list[tuple[Path, Rendered]]:
        """Return the messages with these names that are still there and can be read.

        An error in reading one is appended to `unreadable`, because it must not hold up the others.
        """
        found = []
        for name in names:
            if match := _NAME.fullmatch(name):
                year, month, hour, minute, second, outcome = match.groups()
                path = self._folder / name
                try:
                    xml = path.read_bytes()
                except FileNotFoundError:  # a collector was faster
                    continue
                except OSError as error:
                    unreadable.append(error)
                    continue
                found.append((path, Rendered(f"{year}-{month}-{hour}:{minute}:{second}", outcome, xml)))
        return found

    def remove(self, paths: list[Path]) -> None:
        """Remove messages that have been delivered. Raises OSError."""
        for path in paths:
            path.unlink(missing_ok=True)
        self._files = max(0, self._files - len(paths))

    def _names(self) -> Iterator[str]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    yield entry.name

    def _remove_abandoned(self) -> None:
        """Remove what a process was writing when it died."""
        for path in self._folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
