"""Temporary files, in which instances grow until they are published, and the sweep of those left by dead processes.

Invariant: a temporary file belongs to the process that holds the lock named in the file's name. The kernel releases the
lock however the process ends, so the sweep at a start removes what a crash left, and never touches what a living
process, of this or an older generation, is still writing.

Besides its first name ``OWNER-NUMBER``, a temporary file may have others, each with a suffix that says what it is for.
"""

# An instance costs microseconds here, so system calls take text as it is and no Path is made for them.
# ruff: noqa: PTH108, PTH116, PTH208

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import shutil
import stat
import threading
from pathlib import Path
from typing import Final

from dicomd.store.errors import from_oserror

_FILE_MODE: Final = 0o640
REPLACEMENT: Final = "-r"
"""Suffix of the name that a replacement is renamed from."""
TREE: Final = "-d"
"""Suffix of a folder that is to be renamed into the store with the file in it."""
WITHDRAWN: Final = "-w"
"""Suffix of the name that a final one is renamed to when it is taken back: until it has been checked, the file may be
somebody else's instance (``store.rollback``)."""
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # readable for comparing duplicates
_ATTEMPTS: Final = 16


class TemporaryFiles:
    """The temporary files of this process in ``folder``; its lock is in ``locks``. Both must exist. Fork-safe."""

    def __init__(self, folder: Path, locks: Path) -> None:
        self._folder = str(folder)
        self._locks = str(locks)
        self._pid = -1  # of the process that took the lock: after a fork, the child needs its own
        self._lock_fd = -1
        self._lock_path = ""
        self._prefix = ""
        self._numbers = itertools.count(1)
        self._locking = threading.Lock()

    def create(self) -> tuple[int, str]:
        """Return a new file, open for reading and writing, and its path. Raises ``StoreError``."""
        if self._pid != _this_process:
            self._take_lock()
        path = f"{self._prefix}{next(self._numbers):x}"
        try:
            return os.open(path, _FLAGS, _FILE_MODE), path
        except OSError as error:
            raise from_oserror(error, "open") from error

    def close(self) -> None:
        """Release this process's lock; its next temporary file takes a new one. No file may be in use any more."""
        if self._pid == _this_process:
            unlink_quietly(self._lock_path)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._pid = -1
        self._lock_fd = -1

    def check_lock(self) -> None:
        """Take a new lock with the next file if the present one can't be found any more, say after a remount."""
        with self._locking:
            if self._pid != _this_process:
                return
            try:
                found = os.path.samestat(os.stat(self._lock_path), os.fstat(self._lock_fd))
            except OSError:
                found = False
            if not found:
                self._pid = -1

    def _take_lock(self) -> None:
        with self._locking:
            if self._pid == _this_process:
                return
            try:
                owner, fd = self._new_owner()
            except OSError as error:
                raise from_oserror(error, "open") from error
            if self._lock_fd >= 0:  # inherited in a fork: closing this copy doesn't release the parent's lock
                os.close(self._lock_fd)
            self._lock_fd = fd
            self._lock_path = f"{self._locks}/{owner}"
            self._prefix = f"{self._folder}/{owner}-"
            self._pid = _this_process

    def _new_owner(self) -> tuple[str, int]:
        for _ in range(_ATTEMPTS):
            owner = secrets.token_hex(6)
            fd = os.open(f"{self._locks}/{owner}", _FLAGS, _FILE_MODE)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # otherwise a sweep took its owner for dead and removed it
                return owner, fd
            os.close(fd)
        raise OSError("could not take a lock for temporary files")


def sweep(folder: Path, locks: Path) -> int:
    """Remove the temporary files of dead processes and their locks; return how many files. Raises OSError.

    The files are listed before the locks are tried, because an owner has its lock before its first file. What may be an
    instance stays (``may_be_an_instance``), and so does what can't be opened, locked or removed: it must not prevent a
    start.
    """
    files: dict[str, list[str]] = {entry: [] for entry in os.listdir(locks)}
    for name in sorted(os.listdir(folder), reverse=True):  # first names last, as the others are compared with them
        files.setdefault(name.partition("-")[0], []).append(name)
    removed = 0
    for owner, names in files.items():
        removed += _remove_unless_alive(folder, locks / owner, names)
    return removed


def remains(folder: Path, locks: Path) -> list[str]:
    """Return the names in ``folder`` that no living process owns, without changing anything. Raises OSError."""
    names = sorted(os.listdir(folder))
    dead = {owner for owner in {name.partition("-")[0] for name in names} if not _is_alive(locks / owner)}
    return [name for name in names if name.partition("-")[0] in dead and (folder / name).exists()]


def _is_alive(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _remove_unless_alive(folder: Path, lock: Path, names: list[str]) -> int:
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return sum(_remove(folder / name) for name in names)
    except OSError:
        return 0  # its owner may be alive
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0
    else:
        removed = sum(_remove(folder / name) for name in names)
        unlink_quietly(str(lock))
        return removed
    finally:
        os.close(fd)


def _remove(path: Path) -> bool:
    """Remove a file, or folders that were to be an instance's; return whether this call removed a file."""
    if may_be_an_instance(path):
        return False
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)
        return False
    return unlink_quietly(str(path))


def may_be_an_instance(path: Path) -> bool:
    """Return whether ``path`` may be somebody else's instance, left there by a kill during a rollback."""
    if not path.name.endswith(WITHDRAWN):
        return False
    first_name = str(path).removesuffix(WITHDRAWN)
    try:
        return not os.path.samestat(os.lstat(path), os.lstat(first_name))
    except OSError:
        return True


def unlink_quietly(path: str) -> bool:
    """Remove a file, ignoring errors; return whether this call removed it."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


_this_process = os.getpid()  # asked once per process: as a system call per instance it would be the only needless one


def _note_fork() -> None:
    global _this_process  # noqa: PLW0603 - it is the process that changes
    _this_process = os.getpid()


os.register_at_fork(after_in_child=_note_fork)
