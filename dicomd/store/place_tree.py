"""A folder that arrives in its place with an instance in it already, so that nobody finds it empty.

The rule: somebody may remove empty folders as fast as they are made, so a folder made first and filled then may never
stay. This one is built among the temporary files, whole chain and instance, and renamed into place. A rename over
nothing or over an empty folder succeeds at once; over one with contents it fails, and then one level deeper is the
place. So a failure means that somebody else has put something there, never that somebody has taken something away.
"""

# System calls take text as it is, as in the rest of publishing.
# ruff: noqa: PTH102, PTH104, PTH106, PTH120

from __future__ import annotations

import contextlib
import os

from dicomd.store.directories import DIRECTORY_MODE, Directory, open_directory
from dicomd.store.duplicates import Candidate
from dicomd.store.errors import from_oserror
from dicomd.store.layout import Place
from dicomd.store.temporary import TREE, unlink_quietly


def place_tree(candidate: Candidate, root: str, place: Place, *, synced: bool) -> tuple[Directory | None, list[str]]:
    """Put the missing folders of ``place`` below ``root``, with the candidate under its name in the last of them.

    Returns that folder and the paths that have come to be; None and nothing when no folder is missing, or the store is.
    What was renamed is durable inside, with ``synced``; its place is not. Raises OSError when nothing can be
    built, ``StoreError`` when a sync fails.
    """
    if not place.directory:
        return None, []
    private = f"{candidate.path}{TREE}"  # a name of its owner's, so that a sweep removes what a crash leaves
    try:
        return _move(private, root, place.directory, _build(private, candidate, place, synced=synced))
    except FileNotFoundError:
        return None, []
    finally:
        _clear(private, place)


def _build(private: str, candidate: Candidate, place: Place, *, synced: bool) -> int:
    """Make the chain of folders, and return a descriptor of the last one, in which the candidate has its name."""
    path = private
    os.mkdir(path, DIRECTORY_MODE)  # and nothing above it, as below a missing mount there would be nothing to find
    for name in place.directory.split("/"):
        path = f"{path}/{name}"
        os.mkdir(path, DIRECTORY_MODE)
    fd = open_directory(path)
    try:
        os.link(candidate.path, place.name, dst_dir_fd=fd)
        if synced:
            _sync(fd)
            while path != private:
                path = os.path.dirname(path)
                _sync_path(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _move(private: str, root: str, relative: str, fd: int) -> tuple[Directory | None, list[str]]:
    """Rename as much of the chain as is missing below ``root``."""
    directory = Directory(relative, f"{root}/{relative}", fd)
    names = relative.split("/")
    heads = ["/".join(names[: level + 1]) for level in range(len(names))]
    level = 0
    for _ in range(3 * len(heads)):  # up and down while others come and go
        if level == len(heads):
            break  # all there, and not empty
        try:
            os.rename(f"{private}/{heads[level]}", f"{root}/{heads[level]}")
        except FileNotFoundError:
            if level == 0:
                break  # the root itself
            level -= 1  # the folder above has been removed meanwhile
        except OSError:
            level += 1  # it has contents; or can't be had, and then whoever opens it next will meet the reason
        else:
            return directory, [f"{root}/{head}" for head in heads[level:]]
    return None, []


def _clear(private: str, place: Place) -> None:
    """Remove what wasn't moved; without a descriptor, of which there may be none left."""
    path = f"{private}/{place.directory}"
    unlink_quietly(f"{path}/{place.name}")
    while len(path) >= len(private):
        with contextlib.suppress(OSError):  # moved, or never made
            os.rmdir(path)
        path = os.path.dirname(path)


def _sync_path(path: str) -> None:
    fd = open_directory(path)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise from_oserror(error, "fsync") from error
