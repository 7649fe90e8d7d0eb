"""The file that already has the name: is it the same instance, byte for byte?

The rule: a decision about an existing file is taken while holding its lock (flock) and after making sure that the
name still leads to it. Identical means the same transfer syntax and the same Data Set; File Meta Information doesn't
count, for it tells who sent it. What can't be read as a Part 10 file is a different one. Memory stays flat whatever
the size.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import stat
import time
from typing import Final, NamedTuple

from dicomd.store.errors import StoreUnavailable, from_oserror
from dicomd.store.part10 import read_header

_LOCK_DEADLINE: Final = 30.0  # seconds that another may take to make the same UID durable
_LOCK_INTERVAL: Final = 0.002
_STEP: Final = 1 << 18
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO under a final name must not hold us up
# What opening a name says that holds something, but nothing we may or can read.
_UNREADABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV})


class Candidate(NamedTuple):
    """A complete, synced temporary file, open for reading as ``fd``; its Data Set is ``size`` bytes from ``offset``."""

    fd: int
    path: str
    transfer_syntax_uid: str
    offset: int
    size: int


class Verdict(enum.Enum):
    """What a name turned out to hold."""

    GONE = enum.auto()
    """Nothing any more, or something else by now."""
    SELF = enum.auto()
    """The candidate's own file."""
    IDENTICAL = enum.auto()
    DIFFERENT = enum.auto()


def examine(name: str, directory_fd: int, candidate: Candidate) -> tuple[Verdict, int]:
    """Compare what ``name`` holds with the candidate.

    Returns the verdict and a descriptor, -1 if none, to be closed by the caller once it has acted on the verdict: until
    then it holds the file's lock. Raises ``StoreError``.
    """
    try:
        fd = os.open(name, _FLAGS, dir_fd=directory_fd)
    except FileNotFoundError:
        # A symbolic link to nowhere does hold the name.
        return (Verdict.DIFFERENT if _holds_something(name, directory_fd) else Verdict.GONE), -1
    except OSError as error:
        if error.errno in _UNREADABLE:
            return Verdict.DIFFERENT, -1
        raise from_oserror(error, "open") from error
    try:
        verdict = _examine_open(fd, name, directory_fd, candidate)
    except OSError as error:
        os.close(fd)
        raise from_oserror(error, "read") from error
    except BaseException:
        os.close(fd)
        raise
    return verdict, fd


def is_file(name: str, directory_fd: int, fd: int) -> bool:
    """Whether ``name`` leads to the file open as ``fd``. Raises OSError when that can't be told."""
    try:
        named = os.stat(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def _holds_something(name: str, directory_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _examine_open(fd: int, name: str, directory_fd: int, candidate: Candidate) -> Verdict:
    status = os.fstat(fd)
    if os.path.samestat(status, os.fstat(candidate.fd)):
        return Verdict.SELF  # its lock is ours already
    if not stat.S_ISREG(status.st_mode):
        return Verdict.DIFFERENT
    _lock(fd)
    if not is_file(name, directory_fd, fd):
        return Verdict.GONE
    return Verdict.IDENTICAL if _is_identical(fd, candidate) else Verdict.DIFFERENT


def _lock(fd: int) -> None:
    """Wait for the lock, but not for ever: a program that isn't dicomd may hold it too."""
    deadline = time.monotonic() + _LOCK_DEADLINE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreUnavailable("Existing file stays locked", operation="lock", errno="EWOULDBLOCK") from None
            time.sleep(_LOCK_INTERVAL)
        else:
            return


def _is_identical(fd: int, candidate: Candidate) -> bool:
    header = read_header(fd)
    if header is None or header.transfer_syntax_uid != candidate.transfer_syntax_uid:
        return False
    if os.fstat(fd).st_size - header.data_set_offset != candidate.size:
        return False
    at = 0
    while at < candidate.size:
        ours = os.pread(candidate.fd, _STEP, candidate.offset + at)
        if not ours or ours != os.pread(fd, len(ours), header.data_set_offset + at):
            return False
        at += len(ours)
    return True
