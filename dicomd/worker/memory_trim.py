"""Memory that connections took, given back to the system: large pieces at once, those of a burst when it has ebbed.

The rule it keeps: an allocator that many threads have used keeps most of what they free, in places that none of them
comes back to; so once most connections of a burst have gone, and not more often, it is told to let go (malloc_trim(3)).
Where the C library knows no such call, nothing happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)
_LARGE: Final = 64 * 1024
"""Bytes from which a piece of memory is the system's again when it is freed: requests and Command Sets have up to 256
KiB, and a thread's own arena would keep most of it. By default the limit rises with what is freed, to 32 MiB."""
_ARENAS: Final = 2
"""Python's threads hardly ever allocate at the same time; by default there are eight a processor, and each keeps its
own."""

_BURST: Final = 16
"""Connections fewer than at their height: what less than that leaves behind, the next ones use."""


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_little() -> None:
    """Tell the allocator of this process what to keep."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


class MemoryTrimmer:
    """Watches how many connections there are, and calls `let_go`, then the allocator, after a burst of them."""

    def __init__(self, let_go: Callable[[], None], trim: Callable[[], None] = _trim) -> None:
        self._let_go, self._trim = let_go, trim
        self._height = 0

    def look(self, connections: int) -> None:
        """To be told from time to time how many connections are open."""
        self._height = max(self._height, connections)
        if self._height - connections >= _BURST and connections <= self._height // 2:
            self._height = connections
            self._let_go()
            self._trim()
