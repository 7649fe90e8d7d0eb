"""Takes back what a publication has put into the store: everything if it fails, and names in folders that were moved.

Invariants, on which every acknowledgement depends:

1. A final name is removed here and nowhere else in dicomd, and only while its publication is undecided. Once that is
   decided, nothing on its behalf looks at the store again, and nothing is removed but names in ``{root}/.dicomd/tmp``.
2. What is removed is the candidate's own file, identified by its inode, while its lock is held. So nobody else can have
   acknowledged it: whoever finds an identical instance under a name first waits for that lock, and then checks that
   the name still leads there.
3. In doubt, a name stays. One complete instance too many does no harm; one too few does.

Everything in dicomd that removes something from a store, and why it may:

- ``Rollback`` removes final names of the candidate while it is undecided and its lock is held (invariant 2).
- ``Rollback`` and ``Directories`` remove folders that were made for the candidate, after it has failed. Only empty ones
  can be removed, and whoever was about to use one makes it again.
- ``Publisher``, under the policy "replace", removes what a final name led to, by the rename that gives the name to the
  candidate: this is what the policy asks for.
- ``place_tree``, ``FileWriter``, ``Probe`` and ``Sentinel`` remove their own names in ``.dicomd/tmp``, at any time,
  because an acknowledged instance has a final name, too.
- A sweep removes names in ``.dicomd/tmp`` whose owner is dead, for the same reason. The one exception, a name that may
  lead to somebody else's instance, is left alone (``temporary.may_be_an_instance``).
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
        """Record a final name; to be called before anything is done to make it durable."""
        self._names.append((directory, name))

    def leave_moved_folders(self) -> None:
        """Take back the names in folders that were moved away, say into an archive, where nothing of ours may stay."""
        in_place = []
        for directory, name in self._names:
            if _is_in_place(directory):
                in_place.append((directory, name))
            else:
                _unlink_if_ours(name, directory.fd, self._candidate)
        self._names = in_place

    def run(self) -> None:
        """Take everything back, as far as possible. Never raises OSError."""
        for directory, name in self._names:
            _unlink_if_ours(name, directory.fd, self._candidate)
        self._names.clear()
        remove_made(self.made)


def _unlink_if_ours(name: str, directory_fd: int, candidate: Candidate) -> None:
    """Remove a name of the candidate's file, but leave a name that leads to any other file. Never raises OSError.

    No system call removes a name on condition that it leads to a certain file. Between the check and the removal, the
    name may come to lead to another file: somebody moves ours away, and another worker publishes in its place or a
    backup is restored. So the name is first renamed into the folder for temporary files, where nobody else changes
    anything, and checked again there. A file that turns out not to be ours is put back; if this process is killed
    before that, the sweep leaves the file alone.
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
    """Give a file that isn't ours its name again, or the next free one. Raises OSError."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            os.link(withdrawn, numbered(name, number), dst_dir_fd=directory_fd, follow_symlinks=False)
            return


def _is_candidate(name: str, directory_fd: int, candidate: Candidate) -> bool:
    """Return whether the name is a hard link to the candidate's file; a symbolic link isn't. Raises OSError."""
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return os.path.samestat(found, os.fstat(candidate.fd))


def _is_in_place(directory: Directory) -> bool:
    try:
        return directory.in_place()
    except OSError:
        return True  # unknown, so the name stays (invariant 3); the next attempt will meet the cause
