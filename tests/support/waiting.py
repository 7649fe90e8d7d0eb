"""Waits for conditions, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    deadline: float = 20.0,
    *,
    what: str = "the condition was not fulfilled in time",
    pause: float = 0.01,
) -> None:
    """Wait for a condition. Raises AssertionError with the message `what` after `deadline` seconds."""
    ends = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(pause)
