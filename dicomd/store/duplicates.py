"""Compares an instance with the file that already has its name: are they the same, byte for byte?

Invariant: a decision about an existing file is made while holding its lock (flock), and after checking that the name
still leads to it.

Identical means the same transfer syntax and the same Data Set; File Meta Information doesn't count, since it says who
sent the instance. A file that can't be read as a Part 10 file counts as different, and so does one that can't be read
at all: a bad sector under one file must not keep its sender, or anybody else, from storing. Memory use is constant,
whatever the size.

The publisher of a file holds its lock exclusively, and a comparison has to wait for that. The lock is exclusive here,
too, which keeps comparisons apart from each other. NFS grants no exclusive lock through a descriptor that is open only
for reading (flock(2)), and existing files need not be writable: there, comparisons share the lock, but still wait for
the publisher.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from dicomd.store.errors import OutOfResources, StoreError, StoreUnavailable, from_oserror
from dicomd.store.part10 import read_header

_LOCK_DEADLINE: Final = 30.0  # seconds that another publisher may need to make the same UID durable
_LOCK_INTERVAL: Final = 0.002
_STEP: Final = 1 << 18
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK for a FIFO under a final name


class Candidate(NamedTuple):
    """A complete, synced temporary file, open for reading as ``fd``; its Data Set is ``size`` bytes from ``offset``.

    ``sync_seconds`` is the time that its sync took, 0.0 if syncs are left out.
    """

    fd: int
    path: str
    transfer_syntax_uid: str
    offset: int
    size: int
    sync_seconds: float


class Comparison(enum.Enum):
    """What a name turned out to lead to."""

    GONE = enum.auto()
    """Nothing any more, or another file by now."""
    SELF = enum.auto()
    """The candidate's own file."""
    IDENTICAL = enum.auto()
    DIFFERENT = enum.auto()
    """Another Data Set, or something that can't be read."""
    UNLOCKED = enum.auto()
    """A file that can't be locked, so it may be in the middle of being published or taken back."""


class _UnreadableError(Exception):
    """The ``operation`` failed on the existing file with ``error``."""

    def __init__(self, error: OSError, operation: str, comparison: Comparison) -> None:
        super().__init__(operation)
        self.error = error
        self.operation = operation
        self.comparison = comparison


def examine(
    name: str, path: str, directory_fd: int, candidate: Candidate, on_unreadable: Callable[[StoreError], None]
) -> tuple[Comparison, int]:
    """Compare the file that ``name``, which is at ``path``, leads to with the candidate.

    Returns what came of it and a descriptor (-1 if none), which the caller closes once it has acted on that: until then
    it holds the file's lock. ``on_unreadable`` is called with what prevented an existing file from being compared.
    Raises ``StoreError``.
    """
    fd = -1
    try:
        try:
            fd = _open(name, directory_fd)
            comparison = Comparison.GONE if fd < 0 else _examine_open(fd, name, path, directory_fd, candidate)
        except _UnreadableError as found:
            if _leads_to(name, directory_fd, candidate.fd, if_unknown=False):
                comparison = Comparison.SELF
            elif fd >= 0 and not _leads_to(name, directory_fd, fd, if_unknown=True):
                comparison = Comparison.GONE  # on NFS, a file that another host removed is stale
            else:
                on_unreadable(_failure(found, path))
                comparison = found.comparison
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return comparison, fd


def _open(name: str, directory_fd: int) -> int:
    """Return a descriptor of what the name leads to, -1 if the name is free."""
    try:
        return os.open(name, _FLAGS, dir_fd=directory_fd)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not _holds_something(name, directory_fd):
            return -1
        # A file that is being published can always be opened, as its inode is in the kernel's memory and we own it. So
        # one that can't be opened isn't being published, and may be replaced without its lock.
        raise _UnreadableError(error, "open", Comparison.DIFFERENT) from error


def _failure(found: _UnreadableError, path: str) -> StoreError:
    """Return what prevented reading ``path``. Raises it if we have run out of memory or descriptors."""
    failure = from_oserror(found.error, found.operation, path)
    if isinstance(failure, OutOfResources):
        raise failure from found.error
    return failure


def is_file(name: str, directory_fd: int, fd: int) -> bool:
    """Return whether ``name`` leads to the file open as ``fd``. Raises OSError if that can't be determined."""
    try:
        named = os.stat(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def is_lost(name: str, directory_fd: int, candidate: Candidate) -> bool:
    """Return whether ``name`` is taken by something that can't even be looked up, say because its inode is damaged.

    If looking up the candidate's temporary name, which is free there, fails as well, the directory is at fault.
    """
    return _is_hidden(name, directory_fd) and not _is_hidden(os.path.basename(candidate.path), directory_fd)  # noqa: PTH119


def _is_hidden(name: str, directory_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        return not isinstance(from_oserror(error, "open"), OutOfResources)
    return False


def _leads_to(name: str, directory_fd: int, fd: int, *, if_unknown: bool) -> bool:
    try:
        return is_file(name, directory_fd, fd)
    except OSError:
        return if_unknown


def _holds_something(name: str, directory_fd: int) -> bool:
    """Return whether the name is taken, if only by a symbolic link to nowhere."""
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _examine_open(fd: int, name: str, path: str, directory_fd: int, candidate: Candidate) -> Comparison:
    ours = os.fstat(candidate.fd)
    try:
        status = os.fstat(fd)
        if os.path.samestat(status, ours):
            return Comparison.SELF  # which is locked by us already
        if not stat.S_ISREG(status.st_mode):
            return Comparison.DIFFERENT
        _lock(fd, path)
    except OSError as error:
        raise _UnreadableError(error, "lock", Comparison.UNLOCKED) from error
    try:
        if not is_file(name, directory_fd, fd):
            return Comparison.GONE
        return Comparison.IDENTICAL if _is_identical(fd, candidate) else Comparison.DIFFERENT
    except OSError as error:
        raise _UnreadableError(error, "read", Comparison.DIFFERENT) from error


def _lock(fd: int, path: str) -> None:
    """Wait for the lock, but not forever: other programs may hold it, too. Raises OSError, ``StoreUnavailable``."""
    deadline = time.monotonic() + _LOCK_DEADLINE
    kind = fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    "Existing file stays locked", operation="lock", errno="EWOULDBLOCK", path=path
                ) from None
            time.sleep(_LOCK_INTERVAL)
        except OSError as error:
            if error.errno != errno.EBADF or kind == fcntl.LOCK_SH:
                raise
            kind = fcntl.LOCK_SH  # NFS, through a read-only descriptor
        else:
            return


def _is_identical(fd: int, candidate: Candidate) -> bool:
    """Compare both. Raises OSError if the existing file can't be read, ``StoreError`` if the candidate can't."""
    header = read_header(fd)
    if header is None or header.transfer_syntax_uid != candidate.transfer_syntax_uid:
        return False
    if os.fstat(fd).st_size - header.data_set_offset != candidate.size:
        return False
    at = 0
    while at < candidate.size:
        try:
            ours = os.pread(candidate.fd, _STEP, candidate.offset + at)
        except OSError as error:
            raise from_oserror(error, "read") from error
        if not ours or ours != os.pread(fd, len(ours), header.data_set_offset + at):
            return False
        at += len(ours)
    return True
