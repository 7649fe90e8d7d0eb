"""Recognizes heads of Data Sets that are built alike, so that their wanted values are found without a scan.

A template holds every element header (tag, VR and length) that a scan has used, and its position. Invariant: a head
with the same headers at the same positions would be scanned in the same way, so its wanted values are at the same
positions, too. Instances of one series usually differ in values but not in lengths, and comparing headers costs a tenth
of a scan.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Final, NamedTuple

_MOST_HEADERS: Final = 256  # of one template, so that a peer can't make it large
_MOST_REMEMBERED: Final = 256

HeaderSpan = tuple[int, int]
"""Where the header of an element begins and ends, in bytes."""
ValueSpan = tuple[int, int, int]
"""The tag of a wanted element, and where its value begins and ends."""


class HeadTemplate(NamedTuple):
    """How the head of a Data Set is built: within `end` bytes it has these `headers`, and values for these `tags`."""

    unpack_headers: Callable[[Any], tuple[bytes, ...]]
    headers: tuple[bytes, ...]
    unpack_values: Callable[[Any], tuple[bytes, ...]]
    tags: tuple[int, ...]
    end: int

    def read(self, data: memoryview | bytes) -> dict[int, bytes] | None:
        """Return the wanted values by tag if `data`, the beginning of a Data Set, is built the same way, else None."""
        if len(data) < self.end or self.unpack_headers(data) != self.headers:
            return None
        return dict(zip(self.tags, self.unpack_values(data), strict=True))


class TemplateCache:
    """The template of the last Data Sets of a kind. Thread-safe: one set by another thread is just as valid."""

    __slots__ = ("_last", "template")

    def __init__(self) -> None:
        self.template: HeadTemplate | None = None
        self._last: list[HeaderSpan] = []

    def learn(self, data: memoryview | bytes, headers: list[HeaderSpan], values: list[ValueSpan]) -> None:
        """Remember how a head that didn't match is built, if the one before it was built in the same way.

        Making a template costs as much as a scan, which would be wasted if no two heads are alike.
        """
        last = self._last
        self._last = headers if len(headers) <= _MOST_HEADERS else []
        if headers != last or len({tag for tag, _, _ in values}) < len(values):
            return  # of elements that occur twice, the values must be compared
        shape = _pieces(headers)
        wanted = _pieces([(start, stop) for _, start, stop in values])
        tags = tuple(tag for tag, _, _ in values)
        end = max(shape.size, wanted.size)
        self.template = HeadTemplate(shape.unpack_from, shape.unpack_from(data), wanted.unpack_from, tags, end)


def _pieces(places: list[HeaderSpan]) -> struct.Struct:
    """Make a struct that unpacks the bytes at these places, which are in ascending order."""
    words = ["="]
    at = 0
    for start, stop in places:
        words.append(f"{start - at}x{stop - start}s")
        at = stop
    return struct.Struct("".join(words))


@lru_cache(maxsize=_MOST_REMEMBERED)
def cache_for(*_kind: Hashable) -> TemplateCache:
    """Return the memory for one kind of heads, always the same one. Kinds not seen for long are forgotten."""
    return TemplateCache()
