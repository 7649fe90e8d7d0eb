"""The store's own folders, its root among them, made durable at the start."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from dicomd.store.directories import DIRECTORY_MODE

_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
"""What a sync says of a folder that is closed to us, or of a system's that knows no syncs, as /sys and squashfs do."""


def make_folder(folder: Path, mode: int = DIRECTORY_MODE) -> None:
    """Make a folder of this mode durably, and those above it. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode)
    sync_folder(folder.parent)


def sync_made(folder: Path) -> None:
    """Sync a folder, unless no dicomd can have made anything in it. Raises OSError."""
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise


def sync_folder(folder: Path) -> None:
    """Make what has been made in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
