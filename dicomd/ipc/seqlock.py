"""Records in shared memory that one process writes and others read without a lock.

Invariant: a reader never waits, and never accepts a half-written record as complete. A record whose writer died in the
middle reads as empty until it is written again.

The protocol is that of the kernel's seqlocks. The writer makes the version odd, replaces the content, and makes the
version even again; a reader copies the content, and accepts its copy if the version was even and is still the same.
That requires that other processors see writes in the order in which they were made, as they do on x86_64 but not on
aarch64, and Python has no memory barriers. So a reader also requires that the checksum fits the copy and its version:
a mixed copy goes unnoticed once in 2^32 times there, and never on x86_64. The three numbers of the head are aligned
words, which are read and written whole.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import orjson

_TRIES: Final = 8


class SeqlockRecord(ctypes.Structure):
    """One JSON value, or nothing. A subclass adds `_data`, an array of bytes, whose size limits that of the value.

    Only one thread of one process may write at a time.
    """

    _fields_: ClassVar[Sequence[tuple[str, type[Any]]]] = (
        ("_version", ctypes.c_uint32),
        ("_length", ctypes.c_uint32),
        ("_checksum", ctypes.c_uint32),
    )
    _version: int
    _length: int
    _checksum: int
    _data: ctypes.Array[ctypes.c_ubyte]

    def write(self, value: Any) -> None:
        """Replace the value. Raises ValueError, and changes nothing, if the new one is too long."""
        data = orjson.dumps(value)
        if len(data) > len(self._data):
            raise ValueError(f"{len(data)} bytes are too many for a record of {len(self._data)}")
        self._replace(data)

    def clear(self) -> None:
        """Remove the value."""
        self._replace(b"")

    def read(self) -> Any:
        """Return the value, or None if there is none or if each attempt to read it met a write."""
        for _ in range(_TRIES):
            version = self._version
            data = ctypes.string_at(self._data, min(self._length, len(self._data)))
            fits = self._checksum == zlib.crc32(data, version)
            if fits and not version & 1 and self._version == version:
                return orjson.loads(data) if data else None
        return None

    def _replace(self, data: bytes) -> None:
        writing = (self._version + 1) & 0xFFFFFFFF | 1  # also after a writer that died in the middle
        written = (writing + 1) & 0xFFFFFFFF
        self._version = writing
        self._length = len(data)
        self._checksum = zlib.crc32(data, written)
        ctypes.memmove(self._data, data, len(data))
        self._version = written
