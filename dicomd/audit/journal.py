"""The journal: instances that are stored and not yet told in an audit message, for when their worker is killed.

Invariant: an instance is in the journal before its sender is told success, and stays there until the message that
counts it is delivered or counted as lost. So the death of a process loses none, however it comes: what the dead one
left is told by another worker, or by the next start. It can be told twice, where the process died between the delivery
and the removal. A power cut may lose the last entries: nothing is synced.

One file for the instances that one message, or a few, will tell of. It consists of records of `RECORD` bytes, none of
them across two pages of memory: one for the Association, then one an entry, which begins with the number of instances.
A file belongs to the process that holds the lock named in its own name.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from dicomd.audit.events import Action, InstancesTransferred, Node, combined, studies_of

RECORD: Final = 2048
_COUNT: Final = 10  # digits
_LOCK: Final = ".lock"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MODE: Final = 0o600  # Patient IDs, for nobody else
_ATTEMPTS: Final = 16


class Entry(NamedTuple):
    """What is counted together."""

    patient_id: str
    study_instance_uid: str
    sop_class_uid: str
    action: Action


class JournalFile:
    """The instances of one Association since its last audit message; for its thread alone until `shared`."""

    def __init__(self, fd: int, path: Path, source: Node, called_ae_title: str) -> None:
        """Raises OSError."""
        self._fd, self.path = fd, path
        self._counts: dict[Entry, list[int]] = {}
        self._write(0, [source.ae_title, source.address, called_ae_title], 0)

    def add(self, entry: Entry) -> None:
        """One more instance. Raises OSError."""
        found = self._counts.get(entry)
        if found is None:
            number = len(self._counts) + 1
            self._write(number, list(entry), 1)
            self._counts[entry] = [number * RECORD, 1]
        else:
            os.pwrite(self._fd, b"%0*d" % (_COUNT, found[1] + 1), found[0])
            found[1] += 1

    def close(self) -> None:
        """No more instances. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, number: int, value: list[str], count: int) -> None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        record = b"%0*d %b\n" % (_COUNT, count, text)
        if len(record) > RECORD:
            raise OSError(f"{len(record)} bytes are too many for a record of the audit journal")
        os.pwrite(self._fd, record, number * RECORD)


class Journaled:
    """A file that so many messages tell of: it is finished with the last of them that is delivered."""

    def __init__(self, path: Path, messages: int, finished: Callable[[Path], None]) -> None:
        self._path, self._left, self._finished = path, messages, finished
        self._counting = threading.Lock()

    def delivered(self) -> None:
        """One of the messages is kept elsewhere now, or counted as lost. From any thread; never raises."""
        with self._counting:
            self._left -= 1
            last = not self._left
        if last:
            self._finished(self._path)


class Journal:
    """The files of this process, in `folder`, which is made where it is missing, and those of dead ones."""

    def __init__(self, folder: Path, failed: Callable[[OSError], None]) -> None:
        """`failed` is told of files that can't be written: what they should have held goes with this process."""
        self._folder, self.failed = folder, failed
        self._finished: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._owner, self._lock = "", -1
        self._numbers = itertools.count(1)

    def begin(self, source: Node, called_ae_title: str) -> JournalFile:
        """A new file. Raises OSError."""
        path = self._new_path()
        fd = os.open(path, _FLAGS, _MODE)
        try:
            return JournalFile(fd, path, source, called_ae_title)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise

    def journaled(self, path: Path, messages: int) -> Journaled:
        """So many messages will tell of a file."""
        return Journaled(path, messages, self._finished.put)

    def tend(self, seconds: float) -> bool:
        """Remove the files that have been told, for so many seconds; False after `finish`.

        In a thread of its own: whoever delivers must not wait for this file system, which may hang.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while (path := self._finished.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
            return False
        return True

    def finish(self) -> None:
        """No more files will be told."""
        self._finished.put(None)

    def close(self) -> None:
        """Give up this process's lock; what it has left is another's then."""
        with self._taking:
            owner, lock, self._owner, self._lock = self._owner, self._lock, "", -1
        if lock >= 0:
            with contextlib.suppress(OSError):
                if not any(name.startswith(f"{owner}-") for name in os.listdir(self._folder)):  # noqa: PTH208
                    (self._folder / f"{owner}{_LOCK}").unlink()
            os.close(lock)

    def recover(self, most: int) -> Iterator[list[InstancesTransferred]]:
        """Take over what dead processes have left, `most` files at most: what is to be told of each of them.

        A file that can't be understood yields an empty list: what it held is lost. One without entries is of a process
        that died before its first instance was answered, and yields nothing. Raises OSError.
        """
        left: dict[str, list[str]] = {}
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._folder)):  # noqa: PTH208 - files before the locks are tried
                owner = name.removesuffix(_LOCK).partition("-")[0]
                left.setdefault(owner, [])
                if not name.endswith(_LOCK):
                    left[owner].append(name)
        left.pop(self._owner, None)
        for owner, names in left.items():
            for name in self._of_the_dead(owner, names):
                if most <= 0:
                    return
                most -= 1
                path = self._new_path()
                try:
                    (self._folder / name).rename(path)
                except FileNotFoundError:  # without a lock to hold, another process was quicker
                    continue
                if path.stat().st_size > RECORD:
                    yield self._read(path)
                else:
                    path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[InstancesTransferred]:
        """What a file tells of; nothing where it was damaged, and the file is gone then."""
        try:
            return self._told(path, datetime.fromtimestamp(path.stat().st_mtime, UTC), path.read_bytes())
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            return []

    def _told(self, path: Path, written: datetime, data: bytes) -> list[InstancesTransferred]:
        """Raises ValueError and TypeError."""
        head, *records = (_parsed(data[at : at + RECORD]) for at in range(0, len(data), RECORD))
        calling, address, called = head[1]
        patients: dict[str, list[tuple[Entry, int]]] = {}
        for count, values in records:
            entry = Entry(*cast("Any", values))
            patients.setdefault(entry.patient_id, []).append((entry, count))
        journaled = self.journaled(path, len(patients))
        return [
            InstancesTransferred(
                written,
                Node(calling, address),
                called,
                patient_id,
                studies_of((entry.study_instance_uid, entry.sop_class_uid, count) for entry, count in found),
                combined({entry.action for entry, _ in found}),
                failed=False,
                delivered=journaled.delivered,
            )
            for patient_id, found in patients.items()
        ]

    def _of_the_dead(self, owner: str, names: list[str]) -> Iterator[str]:
        """The names, while nobody else can take them over; none of a living process."""
        lock = self._folder / f"{owner}{_LOCK}"
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield from names
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield from names
            lock.unlink(missing_ok=True)
        except BlockingIOError:
            return
        finally:
            os.close(fd)

    def _new_path(self) -> Path:
        with self._taking:
            if self._lock < 0:
                self._owner, self._lock = self._new_owner()
            return self._folder / f"{self._owner}-{next(self._numbers):x}"

    def _new_owner(self) -> tuple[str, int]:
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        for _ in range(_ATTEMPTS):
            owner = secrets.token_hex(6)
            fd = os.open(self._folder / f"{owner}{_LOCK}", _FLAGS, _MODE)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError:
                os.close(fd)
                raise
            if os.fstat(fd).st_nlink:  # else somebody took it for a dead one's in between
                return owner, fd
            os.close(fd)
        raise OSError("no lock of its own for the audit journal")


def _parsed(record: bytes) -> tuple[int, list[str]]:
    """Raises ValueError."""
    count, _, text = record.partition(b"\n")[0].partition(b" ")
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a record of the audit journal")
    return int(count), values
