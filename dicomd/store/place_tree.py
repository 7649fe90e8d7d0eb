"""Puts missing folders in place with an instance already in them, so that nobody ever finds them empty.

Another program may remove empty folders as fast as they are made, so a folder that is made first and filled afterwards
may never last. Here the whole chain of folders, instance included, is built among the temporary files and then renamed
into place. A rename to a name that is free or an empty folder's succeeds at once. If there is a folder with contents,
the rename fails, and is tried again one level deeper. So a failure means that somebody else has put something there,
never that somebody has removed something.
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

    Returns that folder and the paths that were made; None and no paths if no folder is missing, or the store is. With
    ``synced``, everything inside what was renamed is durable, but its new name is not. Raises OSError if nothing can be
    built, ``StoreError`` if a sync fails.
    """
    if not place.directory:
        return None, []
    private = f"{candidate.path}{TREE}"  # named after its owner, so that a sweep removes what a crash leaves
    try:
        return _move(private, root, place.directory, _build(private, candidate, place, synced=synced))
    except FileNotFoundError:
        return None, []
    finally:
        _clear(private, place)


def _build(private: str, candidate: Candidate, place: Place, *, synced: bool) -> int:
    """Make the chain of folders and link the candidate into the last one; return a descriptor of that."""
    path = private
    os.mkdir(path, DIRECTORY_MODE)  # without parents: if the mount is missing, this must fail
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
    for _ in range(3 * len(heads)):  # up and down, while others make and remove folders
        if level == len(heads):
            break  # all of them exist and have contents
        try:
            os.rename(f"{private}/{heads[level]}", f"{root}/{heads[level]}")
        except FileNotFoundError:
            if level == 0:
                break  # the root itself is missing
            level -= 1  # the folder above has been removed meanwhile
        except OSError:
            level += 1  # it has contents; or it can't be used, and whoever opens it next will meet the cause
        else:
            return directory, [f"{root}/{head}" for head in heads[level:]]
    return None, []


def _clear(private: str, place: Place) -> None:
    """Remove what wasn't moved, without opening anything, since there may be no descriptor left."""
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
