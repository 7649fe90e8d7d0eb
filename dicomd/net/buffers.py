"""Receive buffers: a small one for each Association, and a large one from a pool while it receives large Data Sets.

Invariant: an idle Association holds `SMALL_BUFFER` bytes and nothing else, and the pool keeps only a few large buffers.
"""

from __future__ import annotations

SMALL_BUFFER = 16 * 1024
"""Bytes. A request and a small instance fit into it, and a thousand idle Associations need 16 MiB."""
LARGE_BUFFER = 160 * 1024
"""Bytes. Holds ten TLS records, and is small enough to stay in a core's own cache (512 KiB on small ones) from the read
to the checksum and the write. With room for 512 KiB, the kernel took up to twice as long for reading and writing."""


class BufferPool:
    """Lends buffers of `LARGE_BUFFER` bytes and keeps up to `keep` that were returned. Thread-safe."""

    def __init__(self, keep: int = 16) -> None:
        self._keep = keep
        self._free: list[memoryview] = []

    def borrow(self) -> memoryview:
        """Return a buffer with arbitrary contents."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(bytearray(LARGE_BUFFER))

    def empty(self) -> None:
        """Free all buffers in the pool."""
        self._free.clear()

    def give_back(self, buffer: memoryview) -> None:
        """Take back a buffer of which no view is in use."""
        if len(self._free) < self._keep:
            self._free.append(buffer)
