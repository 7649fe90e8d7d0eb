"""The store on a local file system: starts, opens writers, and checks once a second whether it can accept instances.

A store that has failed, or lost its mount or its space, refuses at ``open`` with the reason, and accepts instances
again by itself once ``check`` has seen that it can (``store.condition``).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicomd.store import mounts, space, temporary
from dicomd.store.condition import StoreCondition
from dicomd.store.directories import Directories
from dicomd.store.errors import OutOfResources, OutOfSpace, StoreError, StoreUnavailable, from_oserror
from dicomd.store.folders import StoreFolders
from dicomd.store.probe import Probe
from dicomd.store.publish import Publisher
from dicomd.store.room import PendingWrites, Room
from dicomd.store.sentinel import Sentinel
from dicomd.store.settings import StoreSettings
from dicomd.store.space import Space
from dicomd.store.state import StoreState
from dicomd.store.temporary import TemporaryFiles
from dicomd.store.types import InstanceIdentity
from dicomd.store.unfiled import Unfiled
from dicomd.store.writer import FileWriter

_CHECK_TIMEOUT: Final = 5.0  # seconds that a check may take; it is a few system calls
_PROBE_TIMEOUT: Final = 30.0  # seconds that a probe (a small write and sync) may take on a busy disk
_PROBE_INTERVAL: Final = 10.0  # seconds between two probes while all is well


class FileStore:
    """Keeps instances as Part 10 files below ``root``. Shared by threads; usable after a fork made while none writes.

    Accepts nothing before ``start``.
    """

    def __init__(self, root: Path, settings: StoreSettings) -> None:
        self.root = root.absolute()
        self._settings = settings
        self._name = b""
        self._folders = StoreFolders(self.root)
        self._temporary = TemporaryFiles(self._folders.tmp, self._folders.locks)
        self._sentinel = Sentinel(self._folders, self._temporary)
        self._directories = Directories(str(self.root))
        self._condition = StoreCondition(settings.reserve_free, self._directories)
        self._room = Room(str(self.root), settings.reserve_free, self._condition)
        self._probe = Probe(self._folders, self._temporary, self._room, checksums=settings.checksums)
        self._publisher = Publisher(
            self._directories, synced=settings.synced, duplicates=settings.duplicates, failures=self._condition
        )
        self._unfiled = Unfiled(self._directories, settings, self._condition)
        self._answer_due = math.inf  # time.monotonic by which the file system should have answered ``check``
        self._next_probe = 0.0

    def set_callbacks(self, *, on_refusal: Callable[[str], None], on_unreadable: Callable[[StoreError], None]) -> None:
        """Have ``on_refusal`` called with the reason whenever a failure makes the store refuse, in its thread.

        And have ``on_unreadable`` called whenever an existing file can't be read and therefore counts as different: the
        instance is then stored, or refused for another reason, and no other error reports the file.
        """
        self._condition.set_callbacks(on_refusal, on_unreadable)

    def share(self, pending_writes: PendingWrites) -> None:
        """Keep the reserve free together with the processes that show in ``pending_writes`` what they may write."""
        self._room.share(pending_writes)

    def start(self, known: bytes = b"") -> int:
        """Make what is missing, sweep what dead processes left, and begin to accept instances.

        ``known`` is the ``name`` of the store that was here at an earlier start, if any: if it isn't here now, nothing
        is made, and instances are accepted once it is back. Returns how many temporary files were removed. Raises
        ``StoreError`` if the store can't work at all: no permission, a read-only file system, one without hard links,
        a mount point without its mount, or a symbolic link that leads nowhere. A full file system is no error, since it
        may be emptied.
        """
        try:
            if known:
                self._name = known
                try:
                    self._sentinel.check(known)
                except StoreUnavailable as error:
                    self._condition.suspend(error)
                    return 0
            removed = self._make()
        except OSError as error:
            raise from_oserror(error, "open") from error
        try:
            self._probe.run()
        except OutOfSpace as error:
            self._condition.suspend(error)
        else:
            self._condition.accept_unless_failed(space.look(str(self.root)), self._condition.failures)
        return removed

    def _make(self) -> int:
        """Make the store's own folders and its sentinel, if missing; return how many files a sweep removed."""
        found = self._sentinel.read()
        if not found and (point := mounts.missing_mount(self.root)):
            raise StoreUnavailable(f"Not mounted: {point}", operation="open")
        self._folders.make()
        removed = 0
        with contextlib.suppress(OSError):  # the workers try again, and log failures
            removed = self.sweep()
        self._name = found or self._sentinel.make()
        self._folders.check_writable()
        return removed

    @property
    def name(self) -> bytes:
        """The unique name of this store: the text of its sentinel, one line. b"" before the start."""
        return self._name

    @property
    def checksums(self) -> bool:
        """Whether checksums are recorded: they are wanted, and the file system keeps them."""
        return self._probe.checksums

    @property
    def no_checksums(self) -> str:
        """The symbolic error for which wanted checksums can't be recorded, "" if there is none."""
        return self._probe.no_checksums

    def successor(self, settings: StoreSettings) -> FileStore:
        """Return this store, already started, with other settings. Accepts instances from its first ``check`` on.

        Nothing is read or made: if the mount has gone since the start, ``check`` must find no store in its place.
        """
        successor = FileStore(self.root, settings)
        successor._name = self._name
        return successor

    def sweep(self) -> int:
        """Remove the temporary files of processes that died since the start; return how many. Raises OSError."""
        return temporary.sweep(self._folders.tmp, self._folders.locks)

    def close(self) -> None:
        """Release locks and descriptors. No writer may be open."""
        self._directories.clear()
        self._temporary.close()

    @property
    def state(self) -> StoreState:
        """The state as last seen by ``check``, or by a writer that has failed since."""
        return self._condition.state

    def open(self, identity: InstanceIdentity) -> FileWriter:
        """Begin an instance. Raises ``OutOfSpace`` or ``StoreUnavailable`` while the store accepts none."""
        condition = self._condition
        condition.require_accepting()
        return FileWriter(
            identity,
            self._settings,
            self._publisher,
            self._unfiled,
            self._temporary,
            self._room,
            condition,
            checksums=self._probe.checksums,
        )

    def check(self) -> None:
        """Check sentinel and space, try to write if suspended, and update ``state``. Never raises. Run once a second.

        A disk may hang without any error, so a small write is tried from time to time while all is well, too.
        """
        failures = self._condition.failures
        self._answer_due = time.monotonic() + _CHECK_TIMEOUT
        try:
            seen = self._check()
        except (OSError, StoreError) as error:
            failure = from_oserror(error, "open") if isinstance(error, OSError) else error
            if not isinstance(failure, OutOfResources):  # that says nothing about the store
                self._condition.suspend(failure)
            return
        finally:
            self._answer_due = math.inf
        self._condition.accept_unless_failed(seen, failures)

    def notice_hanging(self) -> None:
        """Suspend the store if a ``check`` in another thread gets no answer from the file system. Never waits."""
        if time.monotonic() > self._answer_due and self.state.accepting:
            error = StoreUnavailable("Storage does not answer", operation="probe", errno="ETIMEDOUT")
            self._condition.suspend(error)

    def _check(self) -> Space:
        """Return the space seen. Raises OSError or ``StoreError`` for anything that keeps writers from storing."""
        root = str(self.root)
        condition = self._condition
        self._sentinel.check(self._name)
        self._folders.check_writable()
        seen = space.look(root)
        condition.update_space(seen)
        self._room.adjust_to(seen, on_xfs=space.is_on_xfs(root))
        if condition.suspended:
            self._directories.clear()
            self._temporary.check_lock()
        if condition.suspended or condition.doubtful or self._probe_is_due(seen):
            condition.doubtful = False
            self._answer_due = time.monotonic() + _PROBE_TIMEOUT
            self._probe.run(quota_used_up=condition.quota_used_up)
            condition.quota_used_up = False
            self._next_probe = time.monotonic() + _PROBE_INTERVAL
        return seen

    def _probe_is_due(self, seen: Space) -> bool:
        return time.monotonic() >= self._next_probe and not space.shortage(seen, self._settings.reserve_free)
