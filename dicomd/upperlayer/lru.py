"""A cache that evicts the least recently used entries, bounded in number and in bytes.

`functools.lru_cache` only counts entries, but here peers decide how large an entry is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Maps bytes to values. Thread-safe. An entry larger than an eighth of `size` is not kept."""

    def __init__(self, *, entries: int, size: int) -> None:
        self._entries, self._size = entries, size
        self._used = 0
        self._values: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> Value | None:
        """Return the value of `key`, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: bytes, value: Value, *, size: int) -> None:
        """Keep `value`, which occupies about `size` bytes, and evict others if necessary."""
        if size > self._size // 8:
            return
        with self._lock:
            if (old := self._values.pop(key, None)) is not None:
                self._used -= old[1]
            self._values[key] = (value, size)
            self._used += size
            while self._used > self._size or len(self._values) > self._entries:
                self._used -= self._values.popitem(last=False)[1][1]
