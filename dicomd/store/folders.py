"""Makes the store's own folders, its root among them, durably at the start."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Final

from dicomd.store.directories import DIRECTORY_MODE
from dicomd.syncing import sync_folder

_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
"""Errors of syncing a folder that is closed to us, or is on a file system without syncs, such as /sys and squashfs."""


def make_folder(folder: Path, mode: int = DIRECTORY_MODE) -> None:
    """Make a folder with this mode, and missing ones above it, durably. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode)
    sync_folder(folder.parent)


def sync_made(folder: Path) -> None:
    """Sync a folder, unless dicomd can't have made anything in it. Raises OSError."""
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
