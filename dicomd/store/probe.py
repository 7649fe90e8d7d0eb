"""Finds out whether a store can be written, by doing with a small file what a writer does with an instance."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from dicomd.store import checksum
from dicomd.store.errors import from_oserror
from dicomd.store.folders import StoreFolders, link
from dicomd.store.room import Room
from dicomd.store.temporary import TemporaryFiles, unlink_quietly
from dicomd.syncing import sync_folder

_SIZE: Final = 4096  # bytes
_QUOTA_SIZE: Final = 64 << 20  # bytes that must be free again in a quota that was used up


class Probe:
    """Writes, syncs and links a small file, and removes it."""

    def __init__(self, folders: StoreFolders, temporary: TemporaryFiles, room: Room, *, checksums: bool) -> None:
        """With `checksums`, which are wanted then, also find out whether the file system keeps them."""
        self._folders = folders
        self._temporary = temporary
        self._room = room
        self._checksums_wanted = checksums
        self.checksums = checksums
        """Whether checksums are recorded: they are wanted, and the file system keeps them."""
        self.no_checksums = ""
        """The symbolic error for which wanted checksums can't be recorded; found out again by each run."""

    def run(self, *, quota_used_up: bool = False) -> None:
        """Raise ``StoreError`` if a writer would fail, or if little is left of a quota that was used up."""
        fd, path = self._temporary.create()
        second = f"{path}-probe"
        claimed = 0
        try:
            os.write(fd, bytes(_SIZE))
            self.no_checksums = checksum.obstacle(fd) if self._checksums_wanted else ""
            self.checksums = self._checksums_wanted and not self.no_checksums
            if quota_used_up:
                claimed, _ = self._room.claim(_QUOTA_SIZE, 0)
                os.posix_fallocate(fd, 0, _QUOTA_SIZE)
            os.fsync(fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            link(path, second)
            sync_folder(self._folders.tmp)
            sync_folder(self._folders.root)  # through which writers reach every other folder
        except OSError as error:
            raise from_oserror(error, "probe") from error
        finally:
            os.close(fd)
            unlink_quietly(second)
            unlink_quietly(path)
            self._room.settle(claimed)
