"""The journal: stored instances that no audit message has reported yet, in case their worker is killed.

Invariant: an instance is in the journal before its sender receives success, and stays there until the message that
counts it is delivered or counted as lost. So the death of a process, however it comes, loses none: another worker, or
the next start, reports what the dead process left. An instance can be reported twice, if the process died between the
delivery and the removal. A power cut may lose the last entries, because nothing is synced.

There is one file for the instances that one message, or a few, will report. It consists of records of `RECORD` bytes,
none of which crosses a page of memory: one for the Association, then one for each entry, which begins with the number
of instances. A file belongs to the process that holds the lock named in the file's name.
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
_MODE: Final = 0o600  # Patient IDs are for nobody else
_ATTEMPTS: Final = 16


class Entry(NamedTuple):
    """The values in which instances agree that are counted together."""

    patient_id: str
    study_instance_uid: str
    sop_class_uid: str
    action: Action


class JournalFile:
    """The instances of one Association since its last audit message. For the Association's thread only."""

    def __init__(self, fd: int, path: Path, source: Node, called_ae_title: str) -> None:
        """Raises OSError."""
        self._fd, self.path = fd, path
        self._counts: dict[Entry, list[int]] = {}
        self._write(0, [source.ae_title, source.address, called_ae_title], 0)

    def add(self, entry: Entry) -> None:
        """Count one more instance. Raises OSError."""
        found = self._counts.get(entry)
        if found is None:
            number = len(self._counts) + 1
            self._write(number, list(entry), 1)
            self._counts[entry] = [number * RECORD, 1]
        else:
            os.pwrite(self._fd, b"%0*d" % (_COUNT, found[1] + 1), found[0])
            found[1] += 1

    def close(self) -> None:
        """Close the file, which gets no more instances. Idempotent."""
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
    """A file that is reported by so many `messages`: it is `finished` when the last of them is delivered."""

    def __init__(self, path: Path, messages: int, finished: Callable[[Path], None]) -> None:
        self._path, self._left, self._finished = path, messages, finished
        self._counting = threading.Lock()

    def delivered(self) -> None:
        """Note that one message is kept elsewhere, or counted as lost. From any thread; never raises."""
        with self._counting:
            self._left -= 1
            last = not self._left
        if last:
            self._finished(self._path)


class Journal:
    """The files of this process, in `folder`, which is made if it is missing, and those of dead processes."""

    def __init__(self, folder: Path, failed: Callable[[OSError], None]) -> None:
        """`failed` is called if a file can't be written: if this process is killed, its instances are not reported."""
        self._folder, self.failed = folder, failed
        self._finished: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._owner, self._lock = "", -1
        self._numbers = itertools.count(1)

    def begin(self, source: Node, called_ae_title: str) -> JournalFile:
        """Begin a new file. Raises OSError."""
        path = self._new_path()
        fd = os.open(path, _FLAGS, _MODE)
        try:
            return JournalFile(fd, path, source, called_ae_title)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise

    def journaled(self, path: Path, messages: int) -> Journaled:
        """Return what counts the deliveries of the `messages` that will report a file."""
        return Journaled(path, messages, self._finished.put)

    def tend(self, seconds: float) -> bool:
        """Remove files that have been reported, for so many `seconds`; return False after `finish`.

        It needs a thread of its own: deliveries must not wait for this file system, which may hang.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while (path := self._finished.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
            return False
        return True

    def finish(self) -> None:
        """Make `tend` return False, after the files reported so far: there will be no more."""
        self._finished.put(None)

    def close(self) -> None:
        """Release this process's lock, so that another process can take over what it has left."""
        with self._taking:
            owner, lock, self._owner, self._lock = self._owner, self._lock, "", -1
        if lock >= 0:
            with contextlib.suppress(OSError):
                if not any(name.startswith(f"{owner}-") for name in os.listdir(self._folder)):  # noqa: PTH208
                    (self._folder / f"{owner}{_LOCK}").unlink()
            os.close(lock)

    def recover(self, most: int) -> Iterator[list[InstancesTransferred]]:
        """Take over what dead processes have left, at most `most` files, and yield the events to report for each.

        A file that can't be read yields an empty list, since what it held is lost. One without entries is left by a
        process that died before it answered its first instance, and yields nothing. Raises OSError.
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
                except FileNotFoundError:  # with no lock to hold, another process was faster
                    continue
                if path.stat().st_size > RECORD:
                    yield self._read(path)
                else:
                    path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[InstancesTransferred]:
        """Return the events in a file. If it is damaged, remove it and return none."""
        try:
            return self._told(path, datetime.fromtimestamp(path.stat().st_mtime, UTC), path.read_bytes())
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            return []

    def _told(self, path: Path, written: datetime, data: bytes) -> list[InstancesTransferred]:
        """Parse a file into events. Raises ValueError and TypeError."""
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
        """Yield the names while nobody else can take these files over; none of a living process."""
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
            if os.fstat(fd).st_nlink:  # otherwise its owner was taken for dead and it was removed
                return owner, fd
            os.close(fd)
        raise OSError("could not take a lock for the audit journal")


def _parsed(record: bytes) -> tuple[int, list[str]]:
    """Parse a record. Raises ValueError."""
    count, _, text = record.partition(b"\n")[0].partition(b" ")
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a record of the audit journal")
    return int(count), values
