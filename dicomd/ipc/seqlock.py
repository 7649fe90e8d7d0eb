"""Records in shared memory that one process writes and others read, with no lock between them.

The rule it keeps: a reader never waits, and never takes for whole what is half written; a writer that died in the
middle leaves a record that reads as empty until the next one writes it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

_HEAD: Final = 8  # the version, odd while it is being written, and the length
_TRIES: Final = 8


class SeqlockRecord:
    """One JSON value, or nothing, in `memory`; its size bounds the value's."""

    __slots__ = ("_bytes", "_head")

    def __init__(self, memory: memoryview) -> None:
        self._head, self._bytes = memory[:_HEAD].cast("I"), memory[_HEAD:]

    def write(self, value: Any) -> None:
        """Put a value in place of the one before. Raises ValueError, and changes nothing, where it is too long."""
        data = orjson.dumps(value)
        if len(data) > len(self._bytes):
            raise ValueError(f"{len(data)} bytes are too many for a record of {len(self._bytes)}")
        self._replace(data)

    def clear(self) -> None:
        """Leave nothing."""
        self._replace(b"")

    def read(self) -> Any:
        """The value; None for nothing, and for one that is being written all the time."""
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
