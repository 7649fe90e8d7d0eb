"""How much space the store has left, and whether that is enough to accept instances.

Instances are refused before the file system is full, because a full one fails in the middle of objects. Once refused,
they are accepted again only at 1.1 times the reserve, so that the answer doesn't change with every instance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from dicomd.lacks import Lack

_RECOVERY: Final = 1.1
# An instance needs one inode, the first one of a study three; the reserve is for the most Associations there may be.
_RESERVE_FILES: Final = 1024
_RESERVE_FILES_SHARE: Final = 20  # but on a tiny file system at most a twentieth of all


@dataclass(frozen=True, slots=True)
class Space:
    """Space of the store's file system: bytes free to us, bytes in all, inodes free and in all (0: no limit)."""

    avail_bytes: int
    size_bytes: int
    files_avail: int
    files: int

    @property
    def reserve_files(self) -> int:
        """Inodes to leave free."""
        return min(_RESERVE_FILES, self.files // _RESERVE_FILES_SHARE)


def look(path: str) -> Space:
    """Return the space of the file system at ``path``. Raises OSError."""
    status = os.statvfs(path)
    return Space(
        avail_bytes=status.f_bavail * status.f_frsize,
        size_bytes=status.f_blocks * status.f_frsize,
        files_avail=status.f_favail,
        files=status.f_files,
    )


def shortage(
    space: Space, reserve_free: int, *, refused: bool = False, pending_bytes: int = 0, pending_files: int = 0
) -> Lack | None:
    """Return what there is too little of, None if there is enough; ``refused``: there was too little before.

    ``pending_bytes`` and ``pending_files`` may be used already or will be, although ``space`` doesn't show it.
    """
    factor = _RECOVERY if refused else 1.0
    # Without a reserve, the file system is filled to its last byte, and reports by itself that it is full.
    if reserve_free and space.avail_bytes - pending_bytes < reserve_free * factor:
        return Lack.RESERVE
    if space.reserve_files and space.files_avail - pending_files < space.reserve_files * factor:
        return Lack.INODES
    return None


def is_on_xfs(path: str) -> bool:
    """Return whether ``path`` is on an XFS. Raises OSError."""
    device = os.stat(path).st_dev  # noqa: PTH116 - as statvfs takes it
    number = b"%d:%d" % (os.major(device), os.minor(device))
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:  # noqa: PTH123 - not a file of the store's
            for line in mounts:
                mount, _, kind = line.partition(b" - ")
                if mount.split()[2] == number:
                    return kind.split()[0] == b"xfs"
    except (FileNotFoundError, PermissionError):  # no /proc here
        pass
    return False
