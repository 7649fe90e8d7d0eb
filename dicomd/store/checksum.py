"""Checksums recorded at reception: XXH128 of the whole file, in an extended attribute of the file itself.

Invariant: the checksum is set before the file is synced, so it is as durable as the Data Set. It moves with the file
and disappears with it. It protects against decay and accidents, not against an adversary, who could write a new one; so
a fast hash will do: XXH128 costs a thirtieth of SHA-256. `xxhsum -H2 FILE` computes the same checksum, and
`getfattr -e hex -n user.dicomd.xxh128 FILE` shows what was recorded.

It is stored as 16 raw bytes rather than as text: they fit into an ext4 inode (256 bytes) even beside an SELinux label.
"""

from __future__ import annotations

import errno
import os
from typing import Final

import xxhash

Checksum = xxhash.xxh3_128

ATTRIBUTE: Final = "user.dicomd.xxh128"
SIZE: Final = 16
NOT_SUPPORTED: Final = frozenset({"EOPNOTSUPP", "ENOSYS"})
"""Errors of a file system that has no extended attributes for users, which is nothing unusual."""
_NOT_KEPT: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL})


def record(fd: int, checksum: Checksum) -> None:
    """Write the checksum into the file open as ``fd``. Raises OSError."""
    os.setxattr(fd, ATTRIBUTE, checksum.digest())


def read(fd: int) -> bytes | None:
    """Return the checksum recorded in the file open as ``fd``, None if there is none. Raises OSError."""
    try:
        return os.getxattr(fd, ATTRIBUTE)
    except OSError as error:
        if error.errno in _NOT_KEPT or error.errno == errno.ENODATA:
            return None
        raise


def obstacle(fd: int) -> str:
    """Return "" if the (scratch) file open as ``fd`` can keep a checksum, else the symbolic error for which it can't.

    Never raises: an instance without a checksum is better than none. A disk that fails also fails what else is tried.
    """
    try:
        os.setxattr(fd, ATTRIBUTE, bytes(SIZE))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EIO")
    return ""
