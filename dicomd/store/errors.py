"""Failures of storing, typed where they arise, each class with its status for the peer (PS3.4 §B.2.3).

Invariant: no message contains anything that was received (no UID, name or value), so that it can be sent unchanged as
Error Comment (0000,0902): at most 64 characters of ASCII.
"""

from __future__ import annotations

import errno as errno_names
from typing import ClassVar, Final

from dicomd.lacks import Lack
from dicomd.statuses import Status

_MAX_MESSAGE: Final = 64  # Error Comment is of VR LO (PS3.7 §9.1.1, PS3.5 §6.2)

UNEXPLAINED: Final = "Storage failed"
"""The message of a failure of the store of which only the errno is known."""


class StoreError(Exception):
    """An instance was not stored, and nothing of it is left. ``status`` is what ``services`` answers to the peer.

    ``operation`` names the step that failed ("open", "write", "fsync", "link", ...), ``errno`` its symbolic error
    ("ENOSPC") or "" if the operating system was not the cause; both are safe as metric labels. ``element`` is the tag
    at fault, 0xGGGGEEEE, or None. ``path`` is set if only this path is known to have failed, so that the store stays
    ready. It is for the log, and never for the peer. So is ``found``, the UID in a Data Set that isn't the command's.
    ``lack`` is set if there is too little space, and says of what kind.
    """

    status: ClassVar[Status] = Status.STORE_UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        operation: str = "",
        errno: str = "",
        element: int | None = None,
        path: str = "",
        found: str = "",
    ) -> None:
        super().__init__(message[:_MAX_MESSAGE])
        self.message: str = message[:_MAX_MESSAGE]
        self.operation = operation
        self.errno = errno
        self.element = element
        self.path = path
        self.found = found
        self.lack: Lack | None = None


class OutOfSpace(StoreError):
    """There is too little space in the store; ``lack`` says of what kind."""

    status = Status.OUT_OF_SPACE

    def __init__(self, lack: Lack, *, operation: str = "", errno: str = "", path: str = "") -> None:
        super().__init__(lack.value, operation=operation, errno=errno, path=path)
        self.lack = lack


class StoreUnavailable(StoreError):
    """I/O error, read-only, missing mount, failed sync; without a ``path`` the store is not ready either."""

    status = Status.STORE_UNAVAILABLE


class OutOfResources(StoreError):
    """Out of memory or of file descriptors."""

    status = Status.OUT_OF_RESOURCES


class ObjectTooLarge(StoreError):
    """The Data Set is longer than ``max_object_size``."""

    status = Status.OBJECT_TOO_LARGE


class DataSetMismatch(StoreError):
    """SOP Class UID or SOP Instance UID of the Data Set (``element``) differs from the command's.

    ``found`` is "" if what is in the Data Set is no valid UID, and so might be anything.
    """

    status = Status.DATA_SET_MISMATCH


class DataSetUnreadable(StoreError):
    """The Data Set is malformed before its Series Instance UID, or doesn't say which instance it is."""

    status = Status.DATA_SET_UNREADABLE


class LayoutElementInvalid(StoreError):
    """A UID that the layout needs (``element``) is missing from the Data Set or is not a UID."""

    status = Status.LAYOUT_ELEMENT_INVALID


class DuplicateRejected(StoreError):
    """Another Data Set is stored under this SOP Instance UID, and the policy is "reject"."""

    status = Status.DUPLICATE_REJECTED


def from_oserror(error: OSError, operation: str, path: str = "") -> StoreError:
    """Make a ``StoreError`` from an errno, in this one place: StoreUnavailable, unless it is known to be milder.

    ``path`` is given by a step that uses what exists already: the folders of an instance, or a file under its name. One
    of these may be damaged, inaccessible or on another mount while the store itself is well. No errno distinguishes
    that from a failing store, so the store stays ready and finds out by itself: see ``StoreCondition.instance_failed``.
    """
    number = error.errno or 0
    name = errno_names.errorcode.get(number, "")
    if operation != "fsync" and (lack := _LACKS.get(number)):
        return OutOfSpace(lack, operation=operation, errno=name, path=path)
    unknown = "The instance's place in the store can't be used" if path else UNEXPLAINED
    kind, message = _KINDS.get(number, (StoreUnavailable, unknown))
    if operation == "fsync":  # whatever the cause, the kernel's copy and the disk may differ now
        kind, message = StoreUnavailable, "Storage could not be synced"
    if operation == "fsync" or kind is OutOfResources:
        path = ""
    return kind(message, operation=operation, errno=name, path=path)


_LACKS: Final[dict[int, Lack]] = {
    errno_names.ENOSPC: Lack.SPACE,
    errno_names.EDQUOT: Lack.QUOTA,
    errno_names.EFBIG: Lack.FILE_SIZE,
}
_KINDS: Final[dict[int, tuple[type[StoreError], str]]] = {
    errno_names.ENOMEM: (OutOfResources, "Out of memory"),
    errno_names.EMFILE: (OutOfResources, "Too many open files"),
    errno_names.ENFILE: (OutOfResources, "Too many open files in the system"),
    errno_names.EACCES: (StoreUnavailable, "No permission to write to the storage"),
    errno_names.EROFS: (StoreUnavailable, "Storage is read-only"),
    errno_names.EIO: (StoreUnavailable, "Storage has an I/O error"),
    errno_names.EUCLEAN: (StoreUnavailable, "File system of the storage is damaged"),
    errno_names.EXDEV: (StoreUnavailable, "Folder of the instance is on another file system"),
    errno_names.ENOLCK: (StoreUnavailable, "Storage has no file locks (flock)"),
}
