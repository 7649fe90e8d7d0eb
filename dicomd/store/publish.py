"""Publishes instances: gives a complete temporary file its final name, and makes that name durable.

Invariants:

1. Nothing is ever overwritten, except under the policy "replace".
2. Success is reported only after the entry is synced in the very directory that the instance's path leads to.
3. Whoever decides about a final name holds the lock (flock) of the file that it names, from before the name exists
   until the decision is durable or taken back. So a second sender of the same UID, in this process or another, waits
   until it is certain whether the first one's file stays.

An instance is decided when a ``Stored`` is made for it, in ``_make_durable`` or ``_confirm_existing``, after the last
look at the store. From there the ``Stored`` is only passed on: nothing on its way looks at the store again or removes a
final name. Names are taken back only in ``store.rollback``, which explains why no acknowledgement depends on them, and
always before the next attempt begins.
"""

# An instance costs microseconds here, so system calls take text as it is and no Path is made for them.
# ruff: noqa: PTH110

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import Final

from dicomd.store.directories import Directories, Directory, close_quietly
from dicomd.store.duplicates import Candidate, Comparison, examine, is_file, is_lost
from dicomd.store.errors import DuplicateRejected, StoreUnavailable, from_oserror
from dicomd.store.failure_sink import FailureSink
from dicomd.store.layout import Place, numbered
from dicomd.store.place_tree import place_tree
from dicomd.store.rollback import Rollback
from dicomd.store.temporary import REPLACEMENT, unlink_quietly
from dicomd.store.types import DuplicateOutcome, DuplicatePolicy, Stored

_PUBLISH_TIMEOUT: Final = 10.0  # seconds of attempts while another program removes folders that aren't even empty
_LONGEST_PAUSE: Final = 0.05  # seconds between two attempts
_OF_ANOTHER_MOUNT: Final = frozenset({errno.EXDEV, errno.ESTALE})
_MAX_DIFFERENT: Final = 1000  # different Data Sets kept under one UID


class Publisher:
    """Publishes into ``directories``. If ``synced`` is false, syncs are left out, and nothing else changes."""

    def __init__(
        self,
        directories: Directories,
        *,
        synced: bool,
        duplicates: DuplicatePolicy,
        failures: FailureSink,
    ) -> None:
        """``failures`` is told the reason if an existing file can't be read and counts as different."""
        self._directories = directories
        self._synced = synced
        self._duplicates = duplicates
        self._failures = failures

    def publish(self, candidate: Candidate, place: Place) -> Stored:
        """Give the candidate its final name, beside its temporary one. Raises ``StoreError``; then it has none.

        There is one exception: if the directory sync of a "replace" fails, the new file, which is complete, stays where
        the old one was.
        """
        rollback = Rollback(candidate)
        try:
            fcntl.flock(candidate.fd, fcntl.LOCK_EX)
        except OSError as error:
            raise from_oserror(error, "lock") from error
        try:
            published = self._publish(candidate, place, rollback)
        except OSError as error:
            rollback.run()
            raise from_oserror(error, "link", self._path(place)) from error
        except BaseException:
            rollback.run()
            raise
        _unlock(candidate.fd)
        return published

    def _publish(self, candidate: Candidate, place: Place, rollback: Rollback) -> Stored:
        for _ in range(2):  # the first attempt may use a cached directory that was removed long ago
            published = self._attempt(candidate, place, rollback)
            if published is not None:
                return published
            rollback.leave_moved_folders()
        deadline = time.monotonic() + _PUBLISH_TIMEOUT
        pause = 0.001
        while True:
            self._place_tree(candidate, place, rollback)
            published = self._attempt(candidate, place, rollback)
            if published is not None:
                return published
            rollback.leave_moved_folders()
            if not os.path.exists(candidate.path):
                raise StoreUnavailable("Store is missing: is it mounted?", operation="open", errno="ENOENT")
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    "Folder of the instance can't be made or keeps being removed",
                    operation="link",
                    errno="ENOENT",
                    path=self._path(place),
                )
            time.sleep(pause)  # somebody removes folders with contents, or a dangling symbolic link is in the way
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _place_tree(self, candidate: Candidate, place: Place, rollback: Rollback) -> None:
        """Put missing folders in place with the instance already in them, so that nobody removes them as empty."""
        try:
            placed, made = place_tree(candidate, self._directories.root, place, synced=self._synced)
        except OSError as error:
            raise from_oserror(error, "mkdir") from error
        rollback.made += made
        if placed is not None:
            rollback.name_given(placed, place.name)

    def _attempt(self, candidate: Candidate, place: Place, rollback: Rollback) -> Stored | None:
        """Publish in the directory that the path leads to now. Returns None if it was removed or moved meanwhile."""
        try:
            directory = self._directories.open_or_make(place.directory)
        except FileNotFoundError:
            return None  # removed while it was being made
        except OSError as error:
            raise from_oserror(error, "mkdir", self._path(place)) from error
        rollback.made += directory.made
        try:
            published = self._publish_through(directory, candidate, place.name, rollback)
        except OSError as error:
            self._directories.forget(directory)  # opening its path anew may help
            if not (directory.kept and error.errno in _OF_ANOTHER_MOUNT):
                raise
            published = None  # remounted meanwhile: the path itself may be fine
        if published is None:
            self._directories.forget(directory)
        elif not directory.kept:
            self._directories.keep(directory)
        return published

    def _publish_through(
        self, directory: Directory, candidate: Candidate, name: str, rollback: Rollback
    ) -> Stored | None:
        if not self._synced:
            return self._publish_in(directory, directory.fd, candidate, name, rollback)
        handle = directory.reopen()
        try:
            return self._publish_in(directory, handle, candidate, name, rollback)
        finally:
            close_quietly(handle)

    def _publish_in(
        self, directory: Directory, handle: int, candidate: Candidate, first_name: str, rollback: Rollback
    ) -> Stored | None:
        """Publish through ``handle``, a descriptor of the directory. Returns None as ``_attempt`` does."""
        name = first_name
        number = 0
        outcome: DuplicateOutcome = ""
        for _ in range(2 * _MAX_DIFFERENT):  # twice, since existing files may vanish while they are examined
            try:
                os.link(candidate.path, name, dst_dir_fd=handle)
            except FileExistsError:
                pass
            except FileNotFoundError:
                return None  # the directory was removed
            except OSError:
                if not is_lost(name, handle, candidate):
                    raise
            else:
                rollback.name_given(directory, name)
                return self._make_durable(directory, handle, candidate, name, outcome)
            comparison, existing = examine(
                name, f"{directory.path}/{name}", handle, candidate, self._failures.file_unreadable
            )
            try:
                if comparison is Comparison.SELF:
                    rollback.name_given(directory, name)
                    return self._make_durable(directory, handle, candidate, name, outcome)
                if comparison is Comparison.IDENTICAL:
                    return self._confirm_existing(directory, handle, candidate, existing, name)
                if comparison is Comparison.GONE:
                    continue
                if self._duplicates != "keep-both" and not directory.in_place():
                    return None  # moved away, say into an archive: its contents are no longer ours to judge
                if self._duplicates == "reject":
                    raise DuplicateRejected("Another Data Set is stored under this SOP Instance UID", operation="link")
                if self._duplicates == "replace":
                    # Its publisher may still take the name back, and ours with it.
                    if comparison is Comparison.UNLOCKED:
                        raise StoreUnavailable(
                            "Existing file can't be locked", operation="lock", path=f"{directory.path}/{name}"
                        )
                    try:
                        _link_over(candidate.path, name, handle)
                    except FileNotFoundError:
                        return None  # the directory was removed
                    return self._make_durable(directory, handle, candidate, name, "replaced")
            finally:
                if existing >= 0:
                    close_quietly(existing)
            number += 1
            if number == _MAX_DIFFERENT:
                break
            name = numbered(first_name, number)
            outcome = "kept-both"
        raise DuplicateRejected("Too many Data Sets are stored under this UID", operation="link")

    def _make_durable(
        self, directory: Directory, handle: int, candidate: Candidate, name: str, outcome: DuplicateOutcome
    ) -> Stored | None:
        """Make the candidate's new name durable, and decide. Returns None if its directory was moved away meanwhile."""
        try:
            seconds = self._sync(directory, handle)
            in_place = directory.in_place()
        except BaseException:
            self._directories.clear()
            raise
        if not in_place:
            return None
        return Stored(f"{directory.path}/{name}", outcome, candidate.size, candidate.sync_seconds + seconds)

    def _confirm_existing(
        self, directory: Directory, handle: int, candidate: Candidate, existing: int, name: str
    ) -> Stored | None:
        """Make an identical file durable, since its publisher may not have synced it yet, and decide.

        Returns None if its directory was moved away meanwhile, or the name no longer leads to the file.
        """
        seconds = candidate.sync_seconds
        if self._synced:
            began = time.perf_counter()
            try:
                os.fsync(existing)
            except OSError as error:
                raise from_oserror(error, "fsync") from error
            seconds += time.perf_counter() - began
        try:
            seconds += self._sync(directory, handle)
        except BaseException:
            self._directories.clear()
            raise
        if not directory.in_place() or not is_file(name, handle, existing):
            return None
        return Stored(f"{directory.path}/{name}", "identical", candidate.size, seconds)

    def _path(self, place: Place) -> str:
        return f"{self._directories.root}/{place.path}"

    def _sync(self, directory: Directory, handle: int) -> float:
        """Sync the directory, and those parents up to the root that aren't synced yet. Returns the seconds it took."""
        if not self._synced:
            return 0.0
        began = time.perf_counter()
        try:
            os.fsync(handle)
            for parent in reversed(directory.parents):
                os.fsync(parent.fd)
        except OSError as error:
            raise from_oserror(error, "fsync") from error
        return time.perf_counter() - began


def _unlock(fd: int) -> None:
    """Release the lock, ignoring errors: the instance is decided, and closing the file releases the lock, too."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        return


def _link_over(path: str, name: str, directory_fd: int) -> None:
    """Replace, atomically, what ``name`` leads to by the file at ``path``, which keeps that name, too."""
    second = f"{path}{REPLACEMENT}"
    os.link(path, second)
    try:
        os.rename(second, name, dst_dir_fd=directory_fd)
    finally:
        unlink_quietly(second)  # it remains if the rename failed, or had nothing to do as both names led to one file
