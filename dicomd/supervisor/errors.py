"""The error that keeps the daemon from starting, explained to the person who started it."""

import errno
import os
from typing import Final

from dicomd.store.errors import UNEXPLAINED, StoreError

_FULL: Final = "Make room there: its space, inodes or quota are used up"
_DAMAGED: Final = "Check the disk: the kernel's log (`journalctl -k`) says more"
_GONE: Final = "Mount it again, and see whether its server can be reached"
_ADVICE: Final = {
    errno.EROFS: "Mount its file system for writing",
    errno.ENOENT: "Mount its file system, or make the folder",
    errno.ENOTDIR: "Move away what is there instead of a folder",
    errno.ELOOP: "Correct its symbolic links, which lead in a circle",
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EIO: _DAMAGED,
    errno.EUCLEAN: _DAMAGED,
    errno.ENOLCK: "Mount it with file locks (flock)",
    errno.ESTALE: _GONE,
    errno.ETIMEDOUT: _GONE,
    errno.EHOSTDOWN: _GONE,
    errno.ENOTCONN: _GONE,  # FUSE without its program
}


class StartError(Exception):
    """The daemon can't start; the message says why, and what to do about it."""


def unusable(key: str, path: str | os.PathLike[str], error: OSError | StoreError) -> StartError:
    """Make the error for a folder, configured as `key`, that can't be used: with the errno, the path, and advice."""
    cause = error if isinstance(error, OSError) else error.__cause__
    reasons = [str(error)] if isinstance(error, StoreError) and error.message != UNEXPLAINED else []
    advice = f"Choose a folder that {_user()} may write to"
    if isinstance(cause, OSError):
        reasons.append(described(cause))
        advice = _advice(cause, advice)
    if isinstance(error, StoreError) and error.operation == "link":
        advice = "Choose a folder on a file system with hard links"
    elif not isinstance(cause, OSError):
        advice = f"Mount its file system, or {advice[0].lower()}{advice[1:]}"
    return StartError(f"{key}: {os.fspath(path)} can't be used: {': '.join(reasons)}. {advice}")


def described(error: OSError) -> str:
    """Return what the operating system says: the error's text, its symbol, and the path if it names one."""
    symbol = errno.errorcode.get(error.errno or 0)
    text = f"{error.strerror or error}{f' ({symbol})' if symbol else ''}"
    if error.filename is None:
        return text
    target = "" if error.filename2 is None else f" -> {error.filename2}"
    return f"{text}: {error.filename}{target}"


def _advice(error: OSError, otherwise: str) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Give {_user()} write access to it"
    return _ADVICE.get(error.errno or 0, otherwise)


def _user() -> str:
    return f"user id {os.geteuid()}" if os.geteuid() else "root"
