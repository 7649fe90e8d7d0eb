"""Telling operators of stored files that can't be read: counted each time, a log line now and then.

A sender that repeats such an instance meets its file again and again, and a failing disk has many: a path gets one
line in ten minutes, and all of them together ten; the next one's ``count`` includes what got none.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from dicomd.store.errors import StoreError
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.metrics import Metrics

_INTERVAL: Final = 600.0  # seconds
_LINES: Final = 10  # in that time


class UnreadableFiles:
    """The unreadable files that a worker has met. Shared by threads."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._began = -_INTERVAL
        self._told: set[str] = set()
        self._untold = 0

    def tell(self, failure: StoreError) -> None:
        """Take notice of one that was met."""
        self._metrics.count_store_error(failure.operation, failure.errno)
        now = time.monotonic()
        with self._lock:
            if now - self._began >= _INTERVAL:
                self._began = now
                self._told.clear()
            if failure.path in self._told or len(self._told) == _LINES:
                self._untold += 1
                return
            self._told.add(failure.path)
            untold, self._untold = self._untold, 0
        get_logger().error(
            "stored file cannot be read",
            path=failure.path,
            operation=failure.operation,
            errno=failure.errno,
            advice="It counts as another Data Set. Look at the disk; `dicomd verify-store` finds what else is damaged",
            count=untold + 1,
        )
