"""The store's own folder, in which everything but instances lives, and how its folders are made at the start.

{root}/.dicomd          closed to all others: whoever may read instances must not see those still being received
{root}/.dicomd/tmp      temporary files, each named after its owner's lock
{root}/.dicomd/locks    one lock for each process that writes
{root}/.dicomd/store    the sentinel: its text names this store (``store.sentinel``)
{root}/.dicomd/peers    when each peer last stored (``store.last_stores``)
{root}/.dicomd/audit    instances whose audit message is due (``audit.journal``)
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomd.store.directories import DIRECTORY_MODE
from dicomd.store.errors import StoreUnavailable
from dicomd.syncing import sync_folder

OWN_FOLDER: Final = ".dicomd"

_OWN_MODE: Final = 0o700
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
"""Errors of syncing a folder that is closed to us, or is on a file system without syncs, such as /sys and squashfs."""
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
"""How a link fails where there are no hard links: EINVAL on some FUSE and SMB file systems."""


@dataclass(frozen=True, slots=True)
class StoreFolders:
    """Where everything of the store at ``root``, an absolute path, is."""

    root: Path

    @property
    def own(self) -> Path:
        """The store's own folder."""
        return self.root / OWN_FOLDER

    @property
    def tmp(self) -> Path:
        """The folder of temporary files."""
        return self.own / "tmp"

    @property
    def locks(self) -> Path:
        """The folder of the locks that say whose temporary files are in use."""
        return self.own / "locks"

    @property
    def sentinel(self) -> Path:
        """The file that names the store."""
        return self.own / "store"

    def make(self) -> None:
        """Make the folders that are missing, and all of them durable. Raises OSError.

        It is an error if a symbolic link in the root leads nowhere.
        """
        root = _resolved(self.root)
        _make_folder(root)
        _make_folder(self.own, _OWN_MODE)
        for folder in (self.tmp, self.locks):
            _make_folder(folder)
        for folder in (root.parent, root, self.own):  # another process may have just made them, and not synced
            _sync_made(folder)

    def check_writable(self) -> None:
        """Raise OSError if new studies can't have folders: the root may be closed to us though ``.dicomd`` is not."""
        if not os.access(self.root, os.W_OK | os.X_OK, effective_ids=True):
            read_only = os.statvfs(self.root).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))


def link(path: str, second: str | Path) -> None:
    """Give a file a second name. Raises ``StoreUnavailable`` if the file system has no hard links, else OSError."""
    try:
        os.link(path, second)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        name = errno.errorcode[error.errno]
        raise StoreUnavailable("Store needs a file system with hard links", operation="link", errno=name) from error


def _resolved(folder: Path) -> Path:
    """Return the folder, which may be missing, with symbolic links followed. Raises OSError.

    A link that leads nowhere is an error: what it leads to is more probably on a missing mount than yet to be made.
    """
    for place in (folder, *folder.parents):
        try:
            place.stat()
        except FileNotFoundError as error:
            if place.is_symlink():
                missing = os.path.realpath(place)
                raise FileNotFoundError(error.errno, error.strerror, str(place), None, missing) from None
        else:
            break
    return Path(os.path.realpath(folder))


def _make_folder(folder: Path, mode: int = DIRECTORY_MODE) -> None:
    """Make a folder with this mode, and missing ones above it, durably. Raises OSError."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode)
    sync_folder(folder.parent)


def _sync_made(folder: Path) -> None:
    """Sync a folder, unless dicomd can't have made anything in it. Raises OSError."""
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
