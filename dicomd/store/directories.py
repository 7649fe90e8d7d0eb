"""Opens directories of the store once and keeps them open, so that publishing can sync them and knows which need it.

Invariant: a directory in the cache exists durably under its path, because its whole chain of parents up to the root was
synced when it was reached through them, and its open descriptor pins the inode. Somebody may still move, delete or
recreate folders. So a publisher links through the descriptor, which puts the entry into exactly the directory that it
will sync, and then asks ``in_place`` whether the path still leads to that directory.
"""

# An instance costs microseconds here, so system calls take text as it is and no Path is made for them.
# ruff: noqa: PTH106, PTH116

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Final

DIRECTORY_MODE: Final = 0o750
_CAPACITY: Final = 128  # descriptors of each process; this many series can arrive at once without a walk
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Directory:
    """An open directory, closed with the last reference to it: dropping it from the cache is always safe."""

    __slots__ = ("_inode", "fd", "kept", "made", "parents", "path", "relative")

    def __init__(self, relative: str, path: str, fd: int) -> None:
        self.relative = relative
        self.path = path
        self.fd = fd
        self.parents: list[Directory] = []  # from the root down; empty once they are synced
        self.made: list[str] = []  # paths that were made to reach it
        self.kept = False  # in the cache, so its chain of parents is durable
        status = os.fstat(fd)
        self._inode = (status.st_ino, status.st_dev)

    def __del__(self) -> None:
        close_quietly(self.fd)

    def in_place(self) -> bool:
        """Return whether the path still leads to this directory. Raises OSError if that can't be determined."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_ino, status.st_dev) == self._inode

    def reopen(self) -> int:
        """Return another descriptor of the same directory.

        The kernel reports a write-back error once to each descriptor that was open when it happened. A sync through a
        shared descriptor could succeed because another thread has already received the error, so each publisher syncs
        through its own.
        """
        return os.open(".", _FLAGS, dir_fd=self.fd)


class Directories:
    """The directories below ``root``; the least recently used are dropped first. Shared by threads."""

    def __init__(self, root: str, capacity: int = _CAPACITY) -> None:
        self.root: Final = root
        self._capacity = capacity
        self._kept: OrderedDict[str, Directory] = OrderedDict()
        self._lock = threading.Lock()

    def open_or_make(self, relative: str) -> Directory:
        """Return the directory at ``relative`` ("" is the root), made with its parents if it is missing.

        If it was not in the cache, its ``parents`` have yet to be synced. Raises OSError, and FileNotFoundError also if
        somebody removes what is being made.
        """
        with self._lock:
            directory = self._kept.get(relative)
            if directory is not None:
                self._kept.move_to_end(relative)
                return directory
        return self._walk(relative)

    def keep(self, directory: Directory) -> None:
        """Put a directory into the cache. Its chain of parents must be synced."""
        directory.parents = []
        directory.made = []
        directory.kept = True
        with self._lock:
            self._kept[directory.relative] = directory
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)

    def forget(self, directory: Directory) -> None:
        """Drop one directory from the cache, because it is no longer in place or publishing in it failed."""
        with self._lock:
            if self._kept.get(directory.relative) is directory:
                del self._kept[directory.relative]

    def clear(self) -> None:
        """Drop all: after a failed sync nothing counts as durable, and a mount may have come back as another one."""
        with self._lock:
            self._kept.clear()

    def _walk(self, relative: str) -> Directory:
        """Reach the directory from the root, opening each one through the descriptor of its parent."""
        directory = Directory("", self.root, open_directory(self.root))
        if not relative:
            return directory
        chain: list[Directory] = []
        made: list[str] = []
        try:
            for name in relative.split("/"):
                chain.append(directory)
                path = f"{directory.path}/{name}"
                fd = _open_or_make_child(name, path, directory.fd, made)
                directory = Directory(path[len(self.root) + 1 :], path, fd)
        except OSError:
            remove_made(made)
            raise
        directory.parents = chain
        directory.made = made
        return directory


def open_directory(path: str) -> int:
    """Return a descriptor of the directory at ``path``, for syncing it or opening what is below. Raises OSError."""
    return os.open(path, _FLAGS)


def close_quietly(fd: int) -> None:
    """Close a descriptor and ignore errors; Linux closes it even then.

    Only for a descriptor through which nothing was written, or whose file is synced or discarded: on any other, an
    error may mean that data was lost.
    """
    try:
        os.close(fd)
    except OSError:
        return


def _open_or_make_child(name: str, path: str, parent: int, made: list[str]) -> int:
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
        made.append(path)
    except FileExistsError:
        pass  # another thread, worker or program was faster
    return os.open(name, _FLAGS, dir_fd=parent)


def remove_made(made: list[str]) -> None:
    """Remove the directories that were made for an instance which then wasn't stored, if they are empty."""
    for path in reversed(made):
        try:
            os.rmdir(path)
        except OSError:
            return
