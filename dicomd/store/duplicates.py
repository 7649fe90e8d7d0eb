"""The file that already has the name: is it the same instance, byte for byte?

The rule: a decision about an existing file is taken while holding its lock (flock) and after making sure that the
name still leads to it. Identical means the same transfer syntax and the same Data Set; File Meta Information doesn't
count, for it tells who sent it. What can't be read as a Part 10 file is a different one, and so is what can't be read
at all: a bad sector under one file must not keep its sender, or anybody else, from storing. Memory stays flat whatever
the size.

Who publishes a file holds its lock exclusively, and that is what judging it has to wait for. An exclusive lock here
keeps those who judge apart, too. NFS grants none through a descriptor that is open for reading only (flock(2)), and
existing files need not be writable: there the lock is shared by those who judge, and still waits for the publisher.
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

_LOCK_DEADLINE: Final = 30.0  # seconds that another may take to make the same UID durable
_LOCK_INTERVAL: Final = 0.002
_STEP: Final = 1 << 18
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO under a final name must not hold us up


class Candidate(NamedTuple):
    """A complete, synced temporary file, open for reading as ``fd``; its Data Set is ``size`` bytes from ``offset``."""

    fd: int
    path: str
    transfer_syntax_uid: str
    offset: int
    size: int


class Comparison(enum.Enum):
    """What a name turned out to hold."""

    GONE = enum.auto()
    """Nothing any more, or something else by now."""
    SELF = enum.auto()
    """The candidate's own file."""
    IDENTICAL = enum.auto()
    DIFFERENT = enum.auto()
    """Another Data Set, or something that can't be read."""
    UNLOCKED = enum.auto()
    """A file whose lock can't be had, so that it may be one that is just being published, or taken back."""


class _UnreadableError(Exception):
    """The existing file refused the ``operation`` with the ``error``."""

    def __init__(self, error: OSError, operation: str, verdict: Comparison) -> None:
        super().__init__(operation)
        self.error = error
        self.operation = operation
        self.verdict = verdict


def examine(
    name: str, path: str, directory_fd: int, candidate: Candidate, on_unreadable: Callable[[StoreError], None]
) -> tuple[Comparison, int]:
    """Compare what ``name``, which is at ``path``, holds with the candidate.

    Returns the verdict and a descriptor, -1 if none, to be closed by the caller once it has acted on the verdict: until
    then it holds the file's lock. ``on_unreadable`` hears what kept an existing file from being compared. Raises
    ``StoreError``.
    """
    fd = -1
    try:
        try:
            fd = _open(name, directory_fd)
            verdict = Comparison.GONE if fd < 0 else _examine_open(fd, name, path, directory_fd, candidate)
        except _UnreadableError as found:
            if _leads_to(name, directory_fd, candidate.fd, if_unknown=False):
                verdict = Comparison.SELF
            elif fd >= 0 and not _leads_to(name, directory_fd, fd, if_unknown=True):
                verdict = Comparison.GONE  # on NFS, a file that was removed elsewhere is stale
            else:
                on_unreadable(_failure(found, path))
                verdict = found.verdict
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return verdict, fd


def _open(name: str, directory_fd: int) -> int:
    """Return a descriptor of what has the name, -1 where nothing has it."""
    try:
        return os.open(name, _FLAGS, dir_fd=directory_fd)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not _holds_something(name, directory_fd):
            return -1
        # A file that is just being published is in the kernel's memory, and ours: it can be opened. So what can't be
        # is none, and needs no lock to be replaced.
        raise _UnreadableError(error, "open", Comparison.DIFFERENT) from error


def _failure(found: _UnreadableError, path: str) -> StoreError:
    """Say what kept us from reading ``path``. Raises what was our own lack of memory or descriptors."""
    failure = from_oserror(found.error, found.operation, path)
    if isinstance(failure, OutOfResources):
        raise failure from found.error
    return failure


def is_file(name: str, directory_fd: int, fd: int) -> bool:
    """Whether ``name`` leads to the file open as ``fd``. Raises OSError when that can't be told."""
    try:
        named = os.stat(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def is_lost(name: str, directory_fd: int, candidate: Candidate) -> bool:
    """Whether ``name`` is taken by what can't even be looked at: its inode is damaged, say.

    Where the candidate's temporary name, which nothing has there, can't be looked up either, it is the directory.
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
    """Whether the name is taken. A symbolic link to nowhere takes it, too."""
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
            return Comparison.SELF  # its lock is ours already
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
    """Wait for the lock, but not for ever: a program that isn't dicomd may hold it too. Raises OSError without one."""
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
            kind = fcntl.LOCK_SH  # NFS, through a descriptor for reading
        else:
            return


def _is_identical(fd: int, candidate: Candidate) -> bool:
    """Raises OSError where the existing file can't be read, ``StoreError`` where the candidate can't."""
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
