"""Directories of the store, opened once and kept open: publishing needs them synced, and syncing needs to know which.

The rule: a directory in the cache exists durably under its path, for its whole chain of parents up to the root was
synced while it was reached through them, and its open descriptor pins the inode. Somebody may move, delete or
recreate folders meanwhile: a publisher links through the descriptor, so the entry goes into exactly the directory it
will sync, and then asks ``in_place`` whether that directory is still the one the path names.
"""

# An instance costs microseconds here, so system calls take text as it is and no Path is made for them.
# ruff: noqa: PTH106, PTH116

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Final

DIRECTORY_MODE: Final = 0o750
_CAPACITY: Final = 128  # descriptors a process spends on it; as many series arriving at once go without a walk
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Directory:
    """An open directory, closed when the last one who holds it lets go: dropping it from the cache is always safe."""

    __slots__ = ("_inode", "fd", "kept", "made", "parents", "path", "relative")

    def __init__(self, relative: str, path: str, fd: int) -> None:
        self.relative = relative
        self.path = path
        self.fd = fd
        self.parents: list[Directory] = []  # from the root down; empty once they are synced
        self.made: list[str] = []  # paths that were made to reach it
        self.kept = False  # in the cache, so its chain is durable
        status = os.fstat(fd)
        self._inode = (status.st_ino, status.st_dev)

    def __del__(self) -> None:
        close_quietly(self.fd)

    def in_place(self) -> bool:
        """Whether the path still leads to this directory. Raises OSError when that can't be told."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_ino, status.st_dev) == self._inode

    def reopen(self) -> int:
        """Return another descriptor of the same directory.

        The kernel reports a write-back error once to each descriptor that was open when it happened. A sync through a
        shared one could be told "no error" because another thread has heard of it, so each publisher syncs its own.
        """
        return os.open(".", _FLAGS, dir_fd=self.fd)


class Directories:
    """The directories below ``root``, least recently used ones forgotten first. Shared by threads."""

    def __init__(self, root: str, capacity: int = _CAPACITY) -> None:
        self.root: Final = root
        self._capacity = capacity
        self._kept: OrderedDict[str, Directory] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, relative: str) -> Directory:
        """Return the directory at ``relative`` ("" is the root), made with its parents where it isn't there.

        One that was not in the cache has its ``parents`` still to be synced. Raises OSError; FileNotFoundError also
        where somebody removes what is being made.
        """
        with self._lock:
            directory = self._kept.get(relative)
            if directory is not None:
                self._kept.move_to_end(relative)
                return directory
        return self._walk(relative)

    def keep(self, directory: Directory) -> None:
        """Put a directory whose chain of parents is synced into the cache."""
        directory.parents = []
        directory.made = []
        directory.kept = True
        with self._lock:
            self._kept[directory.relative] = directory
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)

    def forget(self, directory: Directory) -> None:
        """Drop one directory from the cache: it isn't in place any more, or its sync failed."""
        with self._lock:
            if self._kept.get(directory.relative) is directory:
                del self._kept[directory.relative]

    def clear(self) -> None:
        """Drop all: after a failed sync nothing counts as durable, and a mount may have come back as another one."""
        with self._lock:
            self._kept.clear()

    def _walk(self, relative: str) -> Directory:
        """Reach the directory from the root, each step through the descriptor of the one before."""
        directory = Directory("", self.root, open_directory(self.root))
        if not relative:
            return directory
        chain: list[Directory] = []
        made: list[str] = []
        try:
            for name in relative.split("/"):
                chain.append(directory)
                path = f"{directory.path}/{name}"
                fd = _open_or_make(name, path, directory.fd, made)
                directory = Directory(path[len(self.root) + 1 :], path, fd)
        except OSError:
            remove_made(made)
            raise
        directory.parents = chain
        directory.made = made
        return directory


def open_directory(path: str) -> int:
    """Return a descriptor of the directory at ``path``, good for syncing it and as a start. Raises OSError."""
    return os.open(path, _FLAGS)


def close_quietly(fd: int) -> None:
    """Close a descriptor that nothing was written through: whatever that says, it is closed and nothing is lost."""
    try:
        os.close(fd)
    except OSError:
        return


def _open_or_make(name: str, path: str, parent: int, made: list[str]) -> int:
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
        made.append(path)
    except FileExistsError:
        pass  # another thread, worker or a mover was quicker
    return os.open(name, _FLAGS, dir_fd=parent)


def remove_made(made: list[str]) -> None:
    """Remove the directories that were made for an instance which then wasn't stored, as far as they are empty."""
    for path in reversed(made):
        try:
            os.rmdir(path)
        except OSError:
            return
