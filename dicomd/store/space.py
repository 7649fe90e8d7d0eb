"""How much room the store has left, and whether that is enough to take instances.

The rule: refuse before the file system is full, as a full one fails in the middle of objects; and once refused, take
again only at 1.1 times the reserve, so that the answer doesn't change with every instance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

RECOVERY: Final = 1.1
# An instance costs an inode, a first one of a study three; the reserve is for as many Associations as may run at once.
_RESERVE_FILES: Final = 1024
_RESERVE_FILES_SHARE: Final = 20  # but on a tiny file system at most a twentieth of all


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system that the store is on: bytes free to us, bytes in all, inodes free and in all (0: no limit)."""

    avail_bytes: int
    size_bytes: int
    files_avail: int
    files: int


def look(path: str) -> Space:
    """Return the space of the file system at ``path``. Raises OSError."""
    status = os.statvfs(path)
    return Space(
        avail_bytes=status.f_bavail * status.f_frsize,
        size_bytes=status.f_blocks * status.f_frsize,
        files_avail=status.f_favail,
        files=status.f_files,
    )


def shortage(space: Space, reserve_free: int, *, refused: bool) -> str:
    """Return why there is too little space, or ""; ``refused`` says whether there was too little before."""
    factor = RECOVERY if refused else 1.0
    if space.avail_bytes < reserve_free * factor:
        return "Free space is below the reserve"
    reserve_files = min(_RESERVE_FILES, space.files // _RESERVE_FILES_SHARE)
    if space.files_avail < reserve_files * factor:
        return "Free inodes are below the reserve"
    return ""
