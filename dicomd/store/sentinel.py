"""The sentinel of a store: a file whose text names the store, so that a missing mount is not taken for an empty one.

Invariant: it appears complete or not at all, and nothing of dicomd ever changes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from dicomd.store.errors import StoreUnavailable
from dicomd.store.folders import StoreFolders, link
from dicomd.store.temporary import TemporaryFiles, unlink_quietly
from dicomd.syncing import sync_folder

_MAX_SIZE: Final = 256  # bytes that are read of it


class Sentinel:
    """The sentinel of the store in ``folders``."""

    def __init__(self, folders: StoreFolders, temporary: TemporaryFiles) -> None:
        self._folders = folders
        self._temporary = temporary

    def read(self) -> bytes:
        """Return its text, the name of the store that is there now; b"" if there is none. Raises OSError."""
        try:
            return _read(self._folders.sentinel).strip()
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def make(self) -> bytes:
        """Make it with a new name, unless another process is faster; return its text.

        Raises OSError, ``StoreError``.
        """
        fd, path = self._temporary.create()
        try:
            os.write(fd, b"dicomd store %s\n" % secrets.token_hex(16).encode())
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                link(path, self._folders.sentinel)
            sync_folder(self._folders.own)
        finally:
            os.close(fd)
            unlink_quietly(path)
        if name := self.read():
            return name
        raise StoreUnavailable("Sentinel of the store is empty", operation="open")

    def check(self, name: bytes) -> None:
        """Raise ``StoreUnavailable`` if the store of this name isn't there, OSError if that can't be determined."""
        found = self.read()
        if found == name:
            return
        if found:
            raise StoreUnavailable("Another store is in this one's place", operation="open")
        raise StoreUnavailable("Store is missing: is it mounted?", operation="open", errno="ENOENT")


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MAX_SIZE)
    finally:
        os.close(fd)
