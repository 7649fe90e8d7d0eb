"""What a publication takes back out of the store: all of it when it fails, and names in folders that were moved away.

Invariants, on which every acknowledgement rests:

1. A final name is removed here and nowhere else in dicomd, and only while its publication is undecided. Once that is
   decided, nothing looks at the store again, and nothing is removed but names in ``{root}/.dicomd/tmp``.
2. What is removed is the candidate's own file, known by its inode, while its lock is held. So nobody else can have
   acknowledged it: whoever finds an equal instance under a name waits for that lock first, and then makes sure that
   the name still leads there.
3. In doubt a name is left. A complete instance too much does no harm; one too few does.

Who removes what:

- ``Rollback``, final names of the candidate: while it is undecided and its lock held (invariant 2).
- ``Rollback`` and ``Directories``, folders that were made for it: after it has failed. Only empty ones can go, and
  whoever was about to use one makes it anew.
- ``Publisher`` under the policy "replace", what a final name led to: by the rename that gives that name to the
  candidate, for this is what was asked for.
- ``place_tree``, ``FileWriter`` and the probe, their own names in ``.dicomd/tmp``: at any time, as what is acknowledged
  has a final name, too.
- A sweep, names in ``.dicomd/tmp`` whose owner is dead: the same; ``temporary.may_be_an_instance`` is the exception.
"""

# System calls take text as it is, as in the rest of publishing.
# ruff: noqa: PTH108

from __future__ import annotations

import contextlib
import itertools
import os

from dicomd.store.directories import Directory, remove_made
from dicomd.store.duplicates import Candidate
from dicomd.store.layout import numbered
from dicomd.store.temporary import WITHDRAWN


class Rollback:
    """The final names that a candidate was given and the folders that were made for it, until it is decided."""

    __slots__ = ("_candidate", "_names", "made")

    def __init__(self, candidate: Candidate) -> None:
        self.made: list[str] = []
        self._candidate = candidate
        self._names: list[tuple[Directory, str]] = []

    def name_given(self, directory: Directory, name: str) -> None:
        """Take note of a name before anything is done to make it durable."""
        self._names.append((directory, name))

    def leave_moved_folders(self) -> None:
        """Take back the names in folders that aren't in their place any more: what is in an archive isn't ours."""
        in_place = []
        for directory, name in self._names:
            if _is_in_place(directory):
                in_place.append((directory, name))
            else:
                unlink_if_ours(name, directory.fd, self._candidate)
        self._names = in_place

    def run(self) -> None:
        """Take it all back, as far as that works. Never raises OSError."""
        for directory, name in self._names:
            unlink_if_ours(name, directory.fd, self._candidate)
        self._names.clear()
        remove_made(self.made)


def unlink_if_ours(name: str, directory_fd: int, candidate: Candidate) -> None:
    """Remove a name of the candidate's file; one that leads to any other file stays. Never raises OSError.

    No system call removes a name only if it leads to a certain file, and between a look at it and its removal another's
    may come there: somebody moves ours away, and another worker publishes in its place, or a backup is restored. So the
    name is renamed into the folder for temporary files, where nobody else changes anything, and looked at again there.
    What turns out to be another's is put back; if a kill comes in between, the sweep leaves it.
    """
    withdrawn = f"{candidate.path}{WITHDRAWN}"
    with contextlib.suppress(OSError):
        if os.path.lexists(withdrawn) or not _is_candidate(name, directory_fd, candidate):
            return
        os.rename(name, withdrawn, src_dir_fd=directory_fd)
        if not _is_candidate(withdrawn, directory_fd, candidate):
            _put_back(withdrawn, name, directory_fd)
        os.unlink(withdrawn)


def _put_back(withdrawn: str, name: str, directory_fd: int) -> None:
    """Give another's file its name again, or the next that is free. Raises OSError."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            os.link(withdrawn, numbered(name, number), dst_dir_fd=directory_fd, follow_symlinks=False)
            return


def _is_candidate(name: str, directory_fd: int, candidate: Candidate) -> bool:
    """Whether the name itself, not a symbolic link under it, is one of the candidate's. Raises OSError."""
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return os.path.samestat(found, os.fstat(candidate.fd))


def _is_in_place(directory: Directory) -> bool:
    try:
        return directory.in_place()
    except OSError:
        return True  # nobody knows: the next attempt will meet the reason
