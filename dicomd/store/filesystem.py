"""The store on a local file system: opens writers, and knows whether it can accept instances.

Invariants: everything but instances lives under ``{root}/.dicomd``. A store that has failed, or lost its mount or its
space, refuses at ``open`` with the reason, and accepts instances again by itself once ``check`` has seen that it can.

{root}/.dicomd/tmp      temporary files, each named after its owner's lock
{root}/.dicomd/locks    one lock for each process that writes
{root}/.dicomd/store    the sentinel: its text names this store, so that a missing mount is not taken for an empty one
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from dicomd.store import checksum, mounts, space, temporary
from dicomd.store.directories import Directories
from dicomd.store.errors import OutOfResources, OutOfSpace, StoreError, StoreUnavailable, from_oserror
from dicomd.store.folders import make_folder, sync_made
from dicomd.store.publish import Publisher
from dicomd.store.room import PendingWrites, Room
from dicomd.store.settings import StoreSettings
from dicomd.store.state import StoreState
from dicomd.store.temporary import TemporaryFiles, unlink_quietly
from dicomd.store.types import InstanceIdentity
from dicomd.store.writer import FileWriter
from dicomd.syncing import sync_folder

OWN_FOLDER: Final = ".dicomd"

_OWN_MODE: Final = 0o700
"""Mode of that folder: whoever may read instances must not see those still being received."""
_SENTINEL_SIZE: Final = 256
_CHECK_TIMEOUT: Final = 5.0  # seconds that a check may take; it is a few system calls
_PROBE_TIMEOUT: Final = 30.0  # seconds that a probe (a small write and sync) may take on a busy disk
_PROBE_INTERVAL: Final = 10.0  # seconds between two probes while all is well
_QUOTA_PROBE: Final = 64 << 20  # bytes that must be free again in a quota that was used up


class FileStore:
    """Keeps instances as Part 10 files below ``root``. Shared by threads; usable after a fork made while none writes.

    Accepts nothing before ``start``.
    """

    def __init__(self, root: Path, settings: StoreSettings) -> None:
        self.root = root.absolute()
        self.settings = settings
        self.checksums = settings.checksums
        """Whether checksums are recorded: they are wanted, and the file system keeps them."""
        self._own = self.root / OWN_FOLDER
        self._tmp = self._own / "tmp"
        self._locks = self._own / "locks"
        self._sentinel = self._own / "store"
        self._name = b""
        self.temporary = TemporaryFiles(self._tmp, self._locks)
        self._directories = Directories(str(self.root))
        self.publisher = Publisher(
            self._directories,
            synced=settings.synced,
            duplicates=settings.duplicates,
            on_unreadable=self._note_unreadable,
        )
        self.room = Room(str(self.root), settings.reserve_free, self._reserve_reached)
        self._changing = threading.Lock()
        self._state = StoreState(False, "Store is not started", avail_bytes=0, size_bytes=0, files_avail=0)
        self._refusal: type[StoreError] = StoreUnavailable
        self._suspended = True
        self._quota_used_up = False
        self._failures = 0
        self._answer_due = math.inf  # time.monotonic by which the file system should have answered ``check``
        self._next_probe = 0.0
        self._doubted = False  # a path has failed, perhaps because the store has
        self._told: Callable[[str], None] = lambda _reason: None
        self._told_unreadable: Callable[[StoreError], None] = lambda _failure: None

    def tell(self, told: Callable[[str], None], told_unreadable: Callable[[StoreError], None] | None = None) -> None:
        """Have ``told`` called with the reason whenever a failure suspends the store, in the thread that failed.

        And have ``told_unreadable`` called whenever an existing file can't be read and therefore counts as different:
        the instance is then stored, or refused for another reason, and no other error reports the file.
        """
        self._told = told
        if told_unreadable is not None:
            self._told_unreadable = told_unreadable

    def share(self, pending_writes: PendingWrites) -> None:
        """Keep the reserve free together with the processes that show in ``pending_writes`` what they may write."""
        self.room.share(pending_writes)

    def start(self, known: bytes = b"") -> int:
        """Make what is missing, sweep what dead processes left, and begin to accept instances.

        ``known`` is the ``name`` of the store that was here at an earlier start, if any: if it isn't here now, nothing
        is made, and instances are accepted once it is back. Returns how many temporary files were removed. Raises
        ``StoreError`` if the store can't work at all: no permission, a read-only file system, one without hard links,
        or a mount point without its mount. A full file system is no error, since it may be emptied.
        """
        try:
            found = self._find_sentinel()
            if known and found != known:
                self._name = known
                self._suspend(_replaced() if found else _missing())
                return 0
            if not found and (point := mounts.missing_mount(self.root)):
                raise StoreUnavailable(f"Not mounted: {point}", operation="open")
            root = Path(os.path.realpath(self.root))  # a symbolic link may lead to a missing folder
            make_folder(root)
            make_folder(self._own, _OWN_MODE)
            for folder in (self._tmp, self._locks):
                make_folder(folder)
            for folder in (root.parent, root, self._own):  # another process may have just made them, and not synced
                sync_made(folder)
            removed = 0
            with contextlib.suppress(OSError):  # the workers try again, and log failures
                removed = temporary.sweep(self._tmp, self._locks)
            self._name = found or self._make_sentinel()
            self._check_writable()
        except OSError as error:
            raise from_oserror(error, "open") from error
        try:
            self._probe()
        except OutOfSpace as error:
            self._suspend(error)
        else:
            self._accept(space.look(str(self.root)), refused=False)
        return removed

    @property
    def name(self) -> bytes:
        """The unique name of this store: the text of its sentinel, one line. b"" before the start."""
        return self._name

    def successor(self, settings: StoreSettings) -> FileStore:
        """Return this store, already started, with other settings. Accepts instances from its first ``check`` on.

        Nothing is read or made: if the mount has gone since the start, ``check`` must find no store in its place.
        """
        successor = FileStore(self.root, settings)
        successor._name = self._name
        return successor

    def sweep(self) -> int:
        """Remove the temporary files of processes that died since the start; return how many. Raises OSError."""
        return temporary.sweep(self._tmp, self._locks)

    def close(self) -> None:
        """Release locks and descriptors. No writer may be open."""
        self._directories.clear()
        self.temporary.close()

    @property
    def state(self) -> StoreState:
        """The state as last seen by ``check``, or by a writer that has failed since."""
        return self._state

    def open(self, identity: InstanceIdentity) -> FileWriter:
        """Begin an instance. Raises ``OutOfSpace`` or ``StoreUnavailable`` while the store accepts none."""
        state = self._state
        if not state.accepting:
            raise self._refusal(state.reason, operation="open")
        return FileWriter(self, identity)

    def note(self, error: StoreError) -> None:
        """Judge a writer's failure: one that concerns the whole store suspends it until a ``check`` succeeds.

        One that concerns a path only casts doubt on the store, and the next ``check`` resolves that by doing with a
        small file what a writer does. So if the disk is at fault, everything is refused within a second. A sender that
        meets the same bad path again and again costs at most one small write per second, and costs others nothing.
        """
        if error.path:
            self._doubted = True
            return
        if isinstance(error, OutOfSpace) and error.errno == "EDQUOT":
            self._quota_used_up = True  # which free space doesn't show
            self._suspend(error)
        elif isinstance(error, StoreUnavailable):
            self._directories.clear()
            self._suspend(error)

    def _note_unreadable(self, failure: StoreError) -> None:
        self.note(failure)
        self._told_unreadable(failure)

    def check(self) -> None:
        """Check sentinel and space, try to write if suspended, and update ``state``. Never raises. Run once a second.

        A disk may hang without any error, so a small write is tried from time to time while all is well, too.
        """
        failures = self._failures
        self._answer_due = time.monotonic() + _CHECK_TIMEOUT
        try:
            self._check_sentinel()
            self._check_writable()
            seen = space.look(str(self.root))
            self._show_space(seen)
            self.room.give_back(seen, on_xfs=space.is_on_xfs(str(self.root)))
            if self._suspended:
                self._directories.clear()
                self.temporary.refresh()
            if self._suspended or self._doubted or self._probe_is_due(seen):
                self._doubted = False
                self._answer_due = time.monotonic() + _PROBE_TIMEOUT
                self._probe()
                self._next_probe = time.monotonic() + _PROBE_INTERVAL
        except (OSError, StoreError) as error:
            failure = from_oserror(error, "open") if isinstance(error, OSError) else error
            if not isinstance(failure, OutOfResources):  # that says nothing about the store
                self._suspend(failure)
            return
        finally:
            self._answer_due = math.inf
        with self._changing:
            if failures != self._failures:  # a writer failed during this check: the next one decides
                return
            self._accept(seen, refused=self._state.space_low and not self._suspended)

    def _probe_is_due(self, seen: space.Space) -> bool:
        return time.monotonic() >= self._next_probe and not space.shortage(seen, self.settings.reserve_free)

    def notice_hanging(self) -> None:
        """Suspend the store if a ``check`` in another thread gets no answer from the file system. Never waits."""
        if time.monotonic() > self._answer_due and self._state.accepting:
            self._suspend(StoreUnavailable("Storage does not answer", operation="probe", errno="ETIMEDOUT"))

    def _accept(self, seen: space.Space, *, refused: bool) -> None:
        """Accept instances if there is space for them; ``refused`` says whether there was too little before."""
        reason = space.shortage(seen, self.settings.reserve_free, refused=refused)
        self._suspended = False
        self._refusal = OutOfSpace
        self._state = StoreState.seen(seen, not reason, reason, space_low=bool(reason))

    def _reserve_reached(self, seen: space.Space, reason: str) -> None:
        """Accept no more instances until a ``check`` finds more space, since a writer has found too little."""
        with self._changing:
            if self._suspended:
                return
            self._failures += 1
            self._refusal = OutOfSpace
            self._state = StoreState.seen(seen, False, reason, space_low=True)
        self._told(reason)

    def _show_space(self, seen: space.Space) -> None:
        """Update the space in ``state``, also while nothing is accepted."""
        with self._changing:
            before = self._state
            self._state = StoreState.seen(seen, before.accepting, before.reason, space_low=before.space_low)

    def _suspend(self, error: StoreError) -> None:
        """Refuse instances, for the reason in ``error``, until a ``check`` has written and synced."""
        with self._changing:
            self._failures += 1
            self._suspended = True
            self._refusal = type(error)
            space_low = isinstance(error, OutOfSpace)
            self._state = replace(self._state, accepting=False, reason=error.message, space_low=space_low)
        self._told(error.message)

    def _check_sentinel(self) -> None:
        found = self._find_sentinel()
        if found != self._name:
            raise _replaced() if found else _missing()

    def _check_writable(self) -> None:
        """Raise OSError if new studies can't have folders: the root may be closed to us though ``.dicomd`` is not."""
        if not os.access(self.root, os.W_OK | os.X_OK, effective_ids=True):
            read_only = os.statvfs(self.root).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))

    def _find_sentinel(self) -> bytes:
        """Return the text of the sentinel, b"" if there is none. Raises OSError."""
        try:
            return _read(self._sentinel).strip()
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def _make_sentinel(self) -> bytes:
        """Make the sentinel, complete or not at all, as several processes may start at once; return its text."""
        fd, path = self.temporary.create()
        try:
            os.write(fd, b"dicomd store %s\n" % secrets.token_hex(16).encode())
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                _link(path, self._sentinel)
            sync_folder(self._own)
        finally:
            os.close(fd)
            unlink_quietly(path)
        if name := self._find_sentinel():
            return name
        raise StoreUnavailable("Sentinel of the store is empty", operation="open")

    def _probe(self) -> None:
        """Do with a small file what a writer does. Raises ``StoreError`` if that fails."""
        fd, path = self.temporary.create()
        second = f"{path}-probe"
        taken = 0
        try:
            os.write(fd, bytes(4096))
            self.checksums = self.settings.checksums and checksum.are_kept(fd)
            if self._quota_used_up:
                taken, _ = self.room.take(_QUOTA_PROBE, 0)
                os.posix_fallocate(fd, 0, _QUOTA_PROBE)
            os.fsync(fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            _link(path, second)
            sync_folder(self._tmp)
            sync_folder(self.root)  # through which writers reach every other folder
        except OSError as error:
            raise from_oserror(error, "probe") from error
        finally:
            os.close(fd)
            unlink_quietly(second)
            unlink_quietly(path)
            self.room.settle(taken)
        self._quota_used_up = False


def _missing() -> StoreUnavailable:
    return StoreUnavailable("Store is missing: is it mounted?", operation="open", errno="ENOENT")


def _replaced() -> StoreUnavailable:
    return StoreUnavailable("Another store is in this one's place", operation="open")


def _link(path: str, second: str | Path) -> None:
    try:
        os.link(path, second)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            name = errno.errorcode[error.errno]
            raise StoreUnavailable("Store needs a file system with hard links", operation="link", errno=name) from error
        raise


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SENTINEL_SIZE)
    finally:
        os.close(fd)
