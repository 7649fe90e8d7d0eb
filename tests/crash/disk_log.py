"""The log of a recording disk: its requests in order, and a position that counts them.

Invariant: a request is in the log before it is counted, so a reader of the position finds at least so many requests.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DISK = "disk"
_RECORD = struct.Struct("<QI")
FLUSH = 2**64 - 1
_POSITION = struct.Struct("<Q")


class Write(NamedTuple):
    """A write request: data at a byte offset."""

    offset: int
    data: bytes


def read_log(path: Path) -> Iterator[Write | None]:
    """Yield the requests in order; None is a flush."""
    with path.open("rb") as log:
        while header := log.read(_RECORD.size):
            offset, size = _RECORD.unpack(header)
            yield None if offset == FLUSH else Write(offset, log.read(size))


def record(offset: int, data: bytes) -> bytes:
    """A request in the format of the log; the offset `FLUSH` makes it a flush."""
    return _RECORD.pack(offset, len(data)) + data


class Position:
    """The number of requests logged so far, in a file that the disk and its observers map."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _POSITION.size)

    def read(self) -> int:
        count: int = _POSITION.unpack(self._map)[0]
        return count

    def advance(self) -> None:
        self._map[:] = _POSITION.pack(self.read() + 1)
