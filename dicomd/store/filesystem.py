"""The store on a local file system: opens writers, and knows whether it may.

The rules: everything but instances lives under ``{root}/.dicomd``; a store that has failed, lost its mount or its space
refuses at ``open`` with the reason, and takes instances again by itself once ``check`` has seen that it can.

{root}/.dicomd/tmp      temporary files, each named by its owner's lock
{root}/.dicomd/locks    a lock a process that writes
{root}/.dicomd/store    the sentinel: its text names this store, so that a missing mount is not taken for an empty one
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dicomd.store import space, temporary
from dicomd.store.directories import DIRECTORY_MODE, Directories
from dicomd.store.errors import OutOfResources, OutOfSpace, StoreError, StoreUnavailable, from_oserror
from dicomd.store.layout import Layout
from dicomd.store.publish import Publisher
from dicomd.store.temporary import TemporaryFiles, unlink_quietly
from dicomd.store.types import DuplicatePolicy, Durability, InstanceIdentity
from dicomd.store.writer import FileWriter

OWN_FOLDER: Final = ".dicomd"

_SENTINEL_SIZE: Final = 256
# What can be wrong with the one path an instance should get, while the store as a whole is well.
_STEPS_OF_A_PATH: Final = frozenset({"mkdir", "link", "read", "lock"})
_WRONG_WITH_A_PATH: Final = frozenset(
    {
        "EACCES", "EEXIST", "EISDIR", "ELOOP", "EMLINK", "ENAMETOOLONG", "ENOENT", "ENOTDIR", "ENOTEMPTY", "EPERM",
        "EWOULDBLOCK", "EXDEV",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoreState:
    """Whether the store takes instances, why not ("" if it does), and its space when last looked at."""

    accepting: bool
    reason: str
    avail_bytes: int
    size_bytes: int
    files_avail: int


class FileStore:
    """Instances as Part 10 files below ``root``. Shared by threads; usable after a fork made while no thread writes.

    ``layout`` is a template (``store.layout``; ValueError for a bad one), ``reserve_free`` and ``max_object_size``
    count bytes. Takes nothing before ``start``.
    """

    def __init__(
        self,
        root: Path,
        *,
        layout: str,
        durability: Durability,
        duplicates: DuplicatePolicy,
        reserve_free: int,
        max_object_size: int,
    ) -> None:
        self.root = root.absolute()
        self.layout = Layout(layout)
        self.synced = durability == "fsync"
        self.max_object_size = max_object_size
        self._reserve_free = reserve_free
        self._own = self.root / OWN_FOLDER
        self._tmp = self._own / "tmp"
        self._locks = self._own / "locks"
        self._sentinel = self._own / "store"
        self._name = b""
        self.temporary = TemporaryFiles(self._tmp, self._locks)
        self._directories = Directories(str(self.root))
        self.publisher = Publisher(self._directories, synced=self.synced, duplicates=duplicates)
        self._changing = threading.Lock()
        self._state = StoreState(False, "Store is not started", avail_bytes=0, size_bytes=0, files_avail=0)
        self._refusal: type[StoreError] = StoreUnavailable
        self._suspended = True
        self._failures = 0
        self._told: Callable[[str], None] = lambda _reason: None

    def tell(self, told: Callable[[str], None]) -> None:
        """Have ``told`` called with the reason whenever a failure suspends the store, in the thread that met it."""
        self._told = told

    def start(self) -> int:
        """Make what is missing, sweep what dead processes left, and begin to accept.

        Returns how many temporary files were removed. Raises ``StoreError`` where the store can't work at all: no
        permission, a read-only file system, one without hard links. A full one is no error: it may be emptied.
        """
        try:
            for folder in (self.root, self._own, self._tmp, self._locks):
                _make_folder(folder)
            for folder in (self.root.parent, self.root, self._own):  # somebody else may have made them an instant ago
                with contextlib.suppress(PermissionError):  # what can't be opened can't have been made by a dicomd
                    _sync_folder(folder)
            removed = temporary.sweep(self._tmp, self._locks)
            self._name = self._read_or_make_sentinel()
        except OSError as error:
            raise from_oserror(error, "open") from error
        try:
            self._probe()
        except OutOfSpace as error:
            self._suspend(error)
        else:
            self._accept(space.look(str(self.root)), refused=False)
        return removed

    def successor(
        self,
        *,
        layout: str,
        durability: Durability,
        duplicates: DuplicatePolicy,
        reserve_free: int,
        max_object_size: int,
    ) -> FileStore:
        """Return this store, which has been started, under other settings. Takes instances from its first ``check`` on.

        Nothing is read or made: where the mount has gone since the start, ``check`` must find no store in its place.
        """
        successor = FileStore(
            self.root,
            layout=layout,
            durability=durability,
            duplicates=duplicates,
            reserve_free=reserve_free,
            max_object_size=max_object_size,
        )
        successor._name = self._name
        return successor

    def sweep(self) -> int:
        """Remove the temporary files of processes that died since the start; return how many. Raises OSError."""
        return temporary.sweep(self._tmp, self._locks)

    def close(self) -> None:
        """Give up locks and descriptors, when no writer is open."""
        self._directories.clear()
        self.temporary.close()

    @property
    def state(self) -> StoreState:
        """As last seen by ``check``, or by a writer that failed since."""
        return self._state

    def open(self, identity: InstanceIdentity) -> FileWriter:
        """Begin an instance. Raises ``OutOfSpace`` or ``StoreUnavailable`` while the store takes none."""
        state = self._state
        if not state.accepting:
            raise self._refusal(state.reason, operation="open")
        return FileWriter(self, identity)

    def note(self, error: StoreError) -> None:
        """Take notice of a writer's failure: one that speaks against the whole store suspends it until ``check``."""
        if not isinstance(error, StoreUnavailable):
            return
        if error.operation in _STEPS_OF_A_PATH and error.errno in _WRONG_WITH_A_PATH:
            return
        self._directories.clear()
        self._suspend(error)

    def check(self) -> None:
        """Look at sentinel and space, try to write if suspended, and update ``state``. Never raises; once a second."""
        failures = self._failures
        try:
            self._check_sentinel()
            seen = space.look(str(self.root))
            if self._suspended:
                self._directories.clear()
                self.temporary.refresh()
                self._probe()
        except (OSError, StoreError) as error:
            failure = from_oserror(error, "open") if isinstance(error, OSError) else error
            if not isinstance(failure, OutOfResources):  # that says nothing about the store
                self._suspend(failure)
            return
        with self._changing:
            if failures != self._failures:  # a writer failed while this looked: the next check decides
                return
            self._accept(seen, refused=not (self._state.accepting or self._suspended))

    def _accept(self, seen: space.Space, *, refused: bool) -> None:
        """Take instances, if there is room for them; ``refused`` says whether there was too little before."""
        reason = space.shortage(seen, self._reserve_free, refused=refused)
        self._suspended = False
        self._refusal = OutOfSpace
        self._state = StoreState(
            accepting=not reason,
            reason=reason,
            avail_bytes=seen.avail_bytes,
            size_bytes=seen.size_bytes,
            files_avail=seen.files_avail,
        )

    def _suspend(self, error: StoreError) -> None:
        """Refuse, for the reason that ``error`` gives, until a ``check`` has written and synced."""
        with self._changing:
            self._failures += 1
            self._suspended = True
            self._refusal = type(error)
            self._state = replace(self._state, accepting=False, reason=error.message)
        self._told(error.message)

    def _check_sentinel(self) -> None:
        try:
            name = _read(self._sentinel)
        except FileNotFoundError:
            raise StoreUnavailable("Store is missing: is it mounted?", operation="open", errno="ENOENT") from None
        if name != self._name:
            raise StoreUnavailable("Another store is in this one's place", operation="open")

    def _read_or_make_sentinel(self) -> bytes:
        """Return the text of the sentinel, made complete or not at all, as several processes may start at once."""
        with contextlib.suppress(FileNotFoundError):
            return _read(self._sentinel)
        fd, path = self.temporary.create()
        try:
            os.write(fd, b"dicomd store %s\n" % secrets.token_hex(16).encode())
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                _link(path, self._sentinel)
            _sync_folder(self._own)
        finally:
            os.close(fd)
            unlink_quietly(path)
        return _read(self._sentinel)

    def _probe(self) -> None:
        """Do with a small file what a writer does. Raises ``StoreError`` if that doesn't work."""
        fd, path = self.temporary.create()
        second = f"{path}-probe"
        try:
            os.write(fd, bytes(4096))
            os.fsync(fd)
            _link(path, second)
            _sync_folder(self._tmp)
        except OSError as error:
            raise from_oserror(error, "probe") from error
        finally:
            os.close(fd)
            unlink_quietly(second)
            unlink_quietly(path)


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


def _make_folder(folder: Path) -> None:
    """Make a folder durably, with those above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(DIRECTORY_MODE)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
