"""Heads of Data Sets that are built alike: where the wanted values are is known before the scan.

The rule: an outline holds all element headers that a scan went by, tag, VR and length, and where they were. A head with
the same headers at the same places would take the same scan the same way, so its wanted values are where they were.
Instances of one series mostly differ in values and not in lengths; comparing costs a tenth of the scan.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Final, NamedTuple

_MOST_HEADERS: Final = 256  # of one outline, so that nobody makes it big
_MOST_REMEMBERED: Final = 256

Header = tuple[int, int]
"""Where the header of an element begins and ends."""
Value = tuple[int, int, int]
"""The tag of a wanted element, and where its value begins and ends."""


class Outline(NamedTuple):
    """How the head of one Data Set was built: in `end` bytes, these `headers`, and values of these `tags`."""

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


class Memory:
    """The outline of the last Data Sets of a kind. Any thread may use it: what others learn meanwhile is as true."""

    __slots__ = ("_last", "outline")

    def __init__(self) -> None:
        self.outline: Outline | None = None
        self._last: list[Header] = []

    def learn(self, data: memoryview | bytes, headers: list[Header], values: list[Value]) -> None:
        """Remember a head that the outline didn't fit, if the one before it was built in the same way.

        To make an outline costs as much as a scan, which would be wasted where no two heads are alike.
        """
        last, self._last = self._last, headers if len(headers) <= _MOST_HEADERS else []
        if headers != last or len({tag for tag, _, _ in values}) < len(values):
            return  # an element that comes twice is judged by its value
        shape, wanted = _pieces(headers), _pieces([(start, stop) for _, start, stop in values])
        tags = tuple(tag for tag, _, _ in values)
        end = max(shape.size, wanted.size)
        self.outline = Outline(shape.unpack_from, shape.unpack_from(data), wanted.unpack_from, tags, end)


def _pieces(places: list[Header]) -> struct.Struct:
    """What unpacks the bytes at these places, one behind the other."""
    words, at = ["="], 0
    for start, stop in places:
        words.append(f"{start - at}x{stop - start}s")
        at = stop
    return struct.Struct("".join(words))


@lru_cache(maxsize=_MOST_REMEMBERED)
def memory(*_kind: Hashable) -> Memory:
    """Return the memory of one kind of heads, the same one each time; a kind that hasn't come for long is forgotten."""
    return Memory()
