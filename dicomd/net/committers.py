"""The threads that commit instances of Associations with an Asynchronous Operations Window, beside their own threads.

Each works at one instance and then takes the next, of any Association. Several commits at once are the point: a journal
makes all of them durable with one flush of the disk. Nothing waits for a thread in a queue: if none can be had, the
Association's own thread commits, as it does without a window. So the instances that wait for the disk are bounded by
the number of threads, and one Association that waits for something else can't keep others waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from dicomd.net.thread_pool import ThreadPool

MOST_COMMITTERS: Final = 64
"""Threads of one worker; with the default window of 8, eight Associations have all they can use."""


class Committers:
    """Up to `most` threads, started when they are needed. Thread-safe."""

    def __init__(self, most: int = MOST_COMMITTERS) -> None:
        self._threads = ThreadPool("committer")
        self._free = threading.BoundedSemaphore(most)

    def assign(self, work: Callable[[], None]) -> bool:
        """Have another thread do `work`, which must not raise, at once; return False if there is none for it."""
        try:
            return self._assign(work)
        except MemoryError:
            return False

    def _assign(self, work: Callable[[], None]) -> bool:
        """Like `assign`. Raises MemoryError if nothing has begun."""
        unclaimed = [work]

        def work_once() -> None:
            if (claimed := _claimed(unclaimed)) is not None:
                try:
                    claimed()
                finally:
                    self._free.release()

        if not self._free.acquire(blocking=False):
            return False
        try:
            self._threads.assign(work_once)
        except (RuntimeError, MemoryError):  # the limit of threads or of memory is reached
            if _claimed(unclaimed) is None:  # memory ran out when the thread had already started
                return True
            self._free.release()
            return False
        return True


def _claimed(unclaimed: list[Callable[[], None]]) -> Callable[[], None] | None:
    """Take the work, unless another thread has taken it."""
    try:
        return unclaimed.pop()
    except IndexError:
        return None
