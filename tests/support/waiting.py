"""Waiting for what will happen."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], deadline: float = 20.0) -> None:
    """Wait for a condition. Raises AssertionError at the deadline, in seconds."""
    ends = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)
