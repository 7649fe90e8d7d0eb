"""Receive buffers: a small one for each Association, a large one from a pool while large Data Sets pass.

The rule it keeps: an idle Association holds `SMALL` bytes and nothing else; the pool keeps only a few large buffers.
"""

from __future__ import annotations

SMALL = 16 * 1024
"""Bytes: a request and a small instance fit into it, and a thousand idle Associations take 16 MiB."""
LARGE = 160 * 1024
"""Bytes: ten records of TLS, and little enough to stay in a processor's own cache (512 KiB on small ones) from the read
to the checksum and the write. With room for a slice of 512 KiB the kernel took up to twice as long for both."""


class BufferPool:
    """Lends buffers of `LARGE` bytes and keeps up to `keep` returned ones. Safe to use from many threads."""

    def __init__(self, keep: int = 16) -> None:
        self._keep = keep
        self._free: list[memoryview] = []

    def borrow(self) -> memoryview:
        """Return a buffer whose contents mean nothing."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(bytearray(LARGE))

    def empty(self) -> None:
        """Keep none of those that are here."""
        self._free.clear()

    def give_back(self, buffer: memoryview) -> None:
        """Take back a buffer that nobody has views of any more."""
        if len(self._free) < self._keep:
            self._free.append(buffer)
