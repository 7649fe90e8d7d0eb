"""Receive buffers: a small one for each Association, and a large one from a pool while it receives large Data Sets.

Invariant: an idle Association holds `SMALL_BUFFER` bytes and nothing else. A pool lends a few large buffers, and much
smaller ones when these are all lent, so many Associations at once cost little more; and it keeps only a few of each.
"""

from __future__ import annotations

import threading

from dicomd.upperlayer.reader import PDUReader

SMALL_BUFFER = 16 * 1024
"""Bytes. A request and a small instance fit into it, and a thousand idle Associations need 16 MiB."""
LARGE_BUFFER = 544 * 1024
"""Bytes: two of the longest PDUs that are accepted by default, and some more. Each read costs a context switch here
and in the peer, which costs more than leaving a core's own cache (512 KiB on small ones) does: an instance of 512 KiB
took a tenth less processor time than with 160 KiB."""
FURTHER_BUFFER = 160 * 1024
"""Bytes, when all large ones are lent. Holds ten TLS records, and stays in a core's own cache from the read to the
checksum and the write."""

_HELD_BACK = 64 * 1024
"""Bytes of a PDV's end for which no read waits: a segment at least, of which those of loopback are the longest. With
Nagle's algorithm, the peer keeps its last bytes, if they are less than a segment, until the others are acknowledged."""
_WORTH_WAITING = 32 * 1024
"""Bytes. For fewer, no read waits until all of them have come."""


class BufferPool:
    """Lends up to `most` buffers of `LARGE_BUFFER` bytes, others of `FURTHER_BUFFER`, and keeps `most` of each.

    Thread-safe.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._large = 0  # how many there are, lent or free
        self._free_large: list[memoryview] = []
        self._free_further: list[memoryview] = []
        self._changing = threading.Lock()

    def borrow(self) -> memoryview:
        """Return a buffer with arbitrary contents."""
        with self._changing:
            if self._free_large:
                return self._free_large.pop()
            if self._large < self._most:
                buffer = memoryview(bytearray(LARGE_BUFFER))
                self._large += 1
                return buffer
            return self._free_further.pop() if self._free_further else memoryview(bytearray(FURTHER_BUFFER))

    def empty(self) -> None:
        """Free all buffers in the pool."""
        with self._changing:
            self._large -= len(self._free_large)
            self._free_large.clear()
            self._free_further.clear()

    def give_back(self, buffer: memoryview) -> None:
        """Take back a buffer of which no view is in use. Each one that was lent has to be given back."""
        with self._changing:
            if len(buffer) == LARGE_BUFFER:
                self._free_large.append(buffer)
            elif len(self._free_further) < self._most:
                self._free_further.append(buffer)


class ReceiveBuffers:
    """The buffers of one Association's reader: the `small` one, and for a while a `large` one; used by its thread."""

    __slots__ = ("_pool", "large", "small")

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self.small = memoryview(bytearray(SMALL_BUFFER))
        self.large: memoryview | None = None

    def enlarge(self, reader: PDUReader) -> None:
        """Have the reader use a large buffer. Invalidates every view that it has returned."""
        self.large = self._pool.borrow()
        reader.rewind(self.large)

    def shrink(self, reader: PDUReader) -> None:
        """Return the large buffer, if the small one can hold what is unread: an idle Association has no other."""
        if self.large is not None and reader.unread < SMALL_BUFFER:
            reader.rewind(self.small)
            self.give_back()

    def give_back(self) -> None:
        """Return the large buffer, from which nothing is read any more."""
        buffer, self.large = self.large, None
        if buffer is not None:
            self._pool.give_back(buffer)


def bytes_to_await(reader: PDUReader) -> int:
    """Return how many bytes the next read should wait for, 0 if it should return as soon as there are any.

    They are those that the peer has announced and will surely send without waiting for an acknowledgement. Each read
    that is saved saves a context switch, here and in the peer.
    """
    due = reader.due - _HELD_BACK
    return due if due >= _WORTH_WAITING else 0
