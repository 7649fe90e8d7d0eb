"""Records in shared memory that one process writes and others read without a lock.

Invariant: a reader never waits, and never accepts a half-written record as complete. A record whose writer died in the
middle reads as empty until it is written again.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

_HEAD: Final = 8  # bytes: the version, which is odd during a write, and the length
_TRIES: Final = 8


class SeqlockRecord:
    """One JSON value, or nothing, in `memory`, whose size limits that of the value."""

    __slots__ = ("_bytes", "_head")

    def __init__(self, memory: memoryview) -> None:
        self._head, self._bytes = memory[:_HEAD].cast("I"), memory[_HEAD:]

    def write(self, value: Any) -> None:
        """Replace the value. Raises ValueError, and changes nothing, if the new one is too long."""
        data = orjson.dumps(value)
        if len(data) > len(self._bytes):
            raise ValueError(f"{len(data)} bytes are too many for a record of {len(self._bytes)}")
        self._replace(data)

    def clear(self) -> None:
        """Remove the value."""
        self._replace(b"")

    def read(self) -> Any:
        """Return the value, or None if there is none or if each attempt to read it met a write."""
        for _ in range(_TRIES):
            version, length = self._head[0], self._head[1]
            data = bytes(self._bytes[: min(length, len(self._bytes))])
            if not version & 1 and self._head[0] == version:
                return orjson.loads(data) if data else None
        return None

    def _replace(self, data: bytes) -> None:
        head, writing = self._head, (self._head[0] + 1) & 0xFFFFFFFF | 1
        head[0] = writing
        head[1] = len(data)
        self._bytes[: len(data)] = data
        head[0] = (writing + 1) & 0xFFFFFFFF
