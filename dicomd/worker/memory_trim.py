"""Returns memory used for connections to the system: large blocks as they are freed, the rest after a burst.

An allocator that many threads have used keeps most of what they free, in arenas that none of them may use again. So
malloc_trim(3) is called once most connections of a burst have ended, and no more often than that. If the C library
doesn't have that function, nothing is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)
_LARGE: Final = 64 * 1024
"""Blocks of at least so many bytes return to the system when they are freed. Requests and Command Sets have up to 256
KiB, most of which a thread's arena would keep. By default, the limit rises up to 32 MiB as larger blocks are freed."""
_ARENAS: Final = 2
"""Enough, as Python's threads hardly ever allocate at the same time. The default is eight per processor, each of which
keeps its own free memory."""

_BURST: Final = 16
"""How many connections must have ended since the peak; memory left by fewer will be used by the next connections."""


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_little() -> None:
    """Limit how much free memory the allocator of this process keeps."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


class MemoryTrimmer:
    """Watches the number of connections, and calls `let_go` and then `trim` after a burst, to return its memory."""

    def __init__(self, let_go: Callable[[], None], trim: Callable[[], None] = _trim) -> None:
        self._let_go = let_go
        self._trim = trim
        self._height = 0

    def look(self, connections: int) -> None:
        """Consider how many connections are open now; to be called from time to time."""
        self._height = max(self._height, connections)
        if self._height - connections >= _BURST and connections <= self._height // 2:
            self._height = connections
            self._let_go()
            self._trim()
