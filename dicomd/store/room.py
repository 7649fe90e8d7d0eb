"""Protects the reserve of free space: room above it is claimed before anything is written, by all processes together.

Invariant: the free space, less everything that may still be written before it is looked at again, is not below the
reserve. This holds however fast data is written, and by however many processes, because

- nothing is written for which no room has been claimed, and room that has been claimed for something that isn't in the
  file system yet is pending;
- a process shows all others what it has pending, and what it is about to claim in addition, *before* it adds up what
  all have shown, and adds that up *before* it looks at the free space; it claims no more than leaves the reserve free
  once all of that is used;
- so whatever isn't in the sum was shown later, and then the later process has the earlier one in its sum; and whatever
  has been taken out of the sum was in the file system by then, so the look at the free space has counted it.

Worst case: all look at once, each sees what all others are about to claim, and some refuse although they need not. No
lock is held while the file system is queried: a process that the disk keeps waiting there keeps no other one waiting.

Other causes of falling free space are unknown here: what other programs write, and what the file system itself needs
beyond ``INSTANCE`` (its journal, inodes made in advance).
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from dicomd.lacks import Lack
from dicomd.store import space
from dicomd.store.errors import OutOfSpace, from_oserror
from dicomd.store.failure_sink import FailureSink
from dicomd.store.space import Space

INSTANCE: Final = 32 << 10
"""Bytes that an instance may cost besides its own: the rest of its last block, folders, the checksum's attribute."""
SMALL: Final = 32 << 10
"""Bytes of the largest instance that a piece has room for."""
_STRETCH: Final = 1 << 20
"""Bytes that a long object claims at once if there is plenty: enough for a CT image of 512 KiB and its attributes."""
_PLENTY: Final = 8  # stretches; with less left, an object claims one part in so many of it
_FILES: Final = 8  # inodes that an instance may cost: file, attribute, second name (if that needs one), folders
_SHARE: Final = 32  # all processes together claim in advance at most the reserve divided by this
_ROOM_SHARE: Final = 16  # and at most what is free above the reserve divided by this
_MOST: Final = 64 << 20  # bytes that one process claims in advance at most, so that it soon sees what others write
_MINIMAL_PREALLOCATION: Final = 64 << 10  # of XFS
_MAXIMAL_PREALLOCATION: Final = 8 << 30


class PendingWrites(Protocol):
    """How the processes that write into one store show each other what they have pending."""

    def show(self, size: int) -> None:
        """Show that this process may still write ``size`` bytes."""

    def total(self) -> tuple[int, int]:
        """Return how many processes have anything pending, and how many bytes in all, this process included."""


class _Alone:
    """The pending writes if only one process uses the store."""

    def __init__(self) -> None:
        self._size = 0

    def show(self, size: int) -> None:
        self._size = size

    def total(self) -> tuple[int, int]:
        return 1, self._size


class Room:
    """The room above the reserve of ``reserve_free`` bytes, and above that of inodes, in the file system at ``root``.

    Shared by the threads of a process. When there is no more room, ``failures`` is told the space seen and the reason.
    """

    def __init__(self, root: str, reserve_free: int, failures: FailureSink) -> None:
        self._root = root
        self._reserve_free = reserve_free
        self._failures = failures
        self._pending_writes: PendingWrites = _Alone()
        self._changing = threading.Lock()
        self._pending = 0  # bytes: claimed, or about to be claimed, and not known to be settled
        self._left = 0  # bytes: claimed in advance
        self._pieces: list[int] = []  # also claimed in advance, in parts
        self._settled: list[int] = []  # no longer pending
        self._claims_under_way = 0
        self._advance = 0  # bytes to claim in advance with the next look
        self.preallocates = False
        """Whether the file system allots more to a growing file than was written."""
        self._avail = 0  # bytes free, when last looked at
        self._size = 1  # bytes in all

    def share(self, pending_writes: PendingWrites) -> None:
        """Count the room together with other processes. To be called before anything is written."""
        self._pending_writes = pending_writes

    # Most instances claim one piece and settle it, so neither waits for the lock: each makes one change to a list, and
    # that is atomic whatever other threads do.

    def claim_piece(self) -> int:
        """Claim room for an instance of up to ``SMALL`` bytes from what was claimed in advance.

        Returns what is to be settled, 0 if there is none: then ``claim`` it.
        """
        try:
            return self._pieces.pop()
        except IndexError:
            return 0

    def settle(self, claimed: int) -> None:
        """Give back room: what it was for is in the file system now, where any look sees it, or never will be."""
        self._settled.append(claimed)

    def claim(self, size: int, end: int) -> tuple[int, int]:
        """Claim room for ``size`` bytes, or more if there is plenty, at the ``end`` of a file.

        Returns what is to be settled once they are written, and how many bytes there is room for. Raises ``OutOfSpace``
        if there is too little, another ``StoreError`` if the file system can't be queried.
        """
        with self._changing:
            if self.preallocates:
                needed = size + _preallocation(end + size, self._avail, self._size)
            else:
                size = max(size, min(_STRETCH, self._left // _PLENTY))
                needed = size
            if needed <= self._left:
                self._left -= needed
                return needed, size
        self._claim_anew(needed)
        return needed, size

    def adjust_to(self, seen: Space, *, on_xfs: bool) -> None:
        """Adjust to the space just seen, and keep nothing in advance: others may need it, and may use it meanwhile."""
        self._avail = seen.avail_bytes
        self._size = seen.size_bytes
        self.preallocates = on_xfs
        self._drop_advance()

    def _claim_anew(self, size: int) -> None:
        """Claim room for ``size`` bytes, and more in advance if possible, by what the file system reports now."""
        seen, lack = self._try_to_claim(size, in_advance=True)
        if lack:
            self._drop_advance()
            seen, lack = self._try_to_claim(size, in_advance=False)
        if lack:
            self._failures.reserve_reached(seen, lack)
            raise OutOfSpace(lack, operation="write")

    def _try_to_claim(self, size: int, *, in_advance: bool) -> tuple[Space, Lack | None]:
        """Return the space seen, and None if room has been claimed, otherwise what there is too little of."""
        with self._changing:
            in_advance = in_advance and not self._claims_under_way  # one thread at a time is enough
            pieces, left = self._next_advance() if in_advance else ([], 0)
            wanted = size + sum(pieces) + left
            self._claims_under_way += 1
            self._pending += wanted
            self._show()
        claimed = False
        try:
            processes, pending = self._pending_writes.total()
            seen = space.look(self._root)
            lack = self._shortage(seen, pending)
            claimed = lack is None
        except OSError as error:
            raise from_oserror(error, "statvfs") from error
        finally:
            with self._changing:
                self._claims_under_way -= 1
                if claimed:
                    self._pieces.extend(pieces)
                    self._left += left
                else:
                    self._pending -= wanted
                self._show()
        self._avail = seen.avail_bytes
        self._size = seen.size_bytes
        self._advance = self._advance_from(seen, pending, processes)
        return seen, lack

    def _drop_advance(self) -> None:
        while piece := self.claim_piece():
            self.settle(piece)
        with self._changing:
            self._pending -= self._left
            self._left = 0
            self._show()

    def _show(self) -> None:
        settled = self._settled[:]
        del self._settled[: len(settled)]  # what is appended meanwhile is behind these
        self._pending -= sum(settled)
        self._pending_writes.show(self._pending)

    def _next_advance(self) -> tuple[list[int], int]:
        """Return what to claim in advance in addition to what there is: pieces, and as much again undivided."""
        piece = INSTANCE + SMALL
        if self.preallocates:
            piece += _preallocation(SMALL, self._avail, self._size)
        half = self._advance // 2
        return [piece] * (half // piece - len(self._pieces)), max(0, half - self._left)

    def _shortage(self, seen: Space, pending: int) -> Lack | None:
        # Room for an instance includes INSTANCE bytes, so no more instances than this can be pending.
        files = _FILES * (pending // INSTANCE)
        return space.shortage(seen, self._reserve_free, pending_bytes=pending, pending_files=files)

    def _advance_from(self, seen: Space, pending: int, processes: int) -> int:
        """The less room there is, the sooner it is looked at again, and the less is kept from others meanwhile."""
        advance = _MOST
        if self._reserve_free:
            above = seen.avail_bytes - self._reserve_free - pending
            advance = min(advance, self._reserve_free // (_SHARE * processes), above // (_ROOM_SHARE * processes))
        if seen.reserve_files:
            above = (seen.files_avail - seen.reserve_files) // _FILES * INSTANCE - pending
            advance = min(advance, above // (_ROOM_SHARE * processes))
        return max(0, advance)


def _preallocation(end: int, avail: int, size: int) -> int:
    """Return how many bytes XFS may allot beyond the ``end`` of a file that grows, until it is closed.

    This is twice the size of the file, less if less than a twentieth of the disk is free or not even that much is free
    (xfs_iomap_prealloc_size in the kernel's fs/xfs/xfs_iomap.c).
    """
    most = max(_MINIMAL_PREALLOCATION, min(2 * end, _MAXIMAL_PREALLOCATION))
    percent = avail * 100 // size
    if percent < 5:
        most >>= 6 - percent
    while most > _MINIMAL_PREALLOCATION and most >= avail:
        most >>= 4
    return most
