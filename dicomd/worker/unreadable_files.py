"""Reports stored files that can't be read: each failure is counted, but log lines are limited.

A sender that repeats such an instance makes dicomd read its file again and again, and a failing disk has many such
files. So a path is logged once in ten minutes, and at most ten paths are logged in that time; the ``count`` of the next
line includes the failures that were not logged.
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
    """The unreadable files that a worker has found. Thread-safe."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._began = -_INTERVAL
        self._told: set[str] = set()
        self._untold = 0

    def tell(self, failure: StoreError) -> None:
        """Count a file that couldn't be read, and log it unless that would be too many lines."""
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
            advice="It counts as a different Data Set. Check the disk; `dicomd verify-store` finds other damaged files",
            count=untold + 1,
        )
