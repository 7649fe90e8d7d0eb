"""Threads that do one piece of work after another, because starting a thread can cost more than a short Association.

Invariant: work never waits for a busy thread. The thread that became idle last takes it, or else a new one is started.
A thread that stays idle for a while ends and frees its memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

_STAYS: Final = 2.0  # seconds that a thread waits for work; if it comes less often, a new thread does no harm
_MOST_IDLE: Final = 32  # the threads started for a burst need not all stay


class ThreadPool:
    """Threads with one `name`. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_Thread] = []
        self._changing = threading.Lock()

    def assign(self, work: Callable[[], None]) -> None:
        """Have another thread do `work`, which must not raise, at once. Raises RuntimeError if no thread can start."""
        with self._changing:
            thread = self._idle.pop() if self._idle else None
        if thread is not None:
            thread.work = work
            thread.assigned.release()
            return
        thread = _Thread(work)
        threading.Thread(target=self._serve, args=(thread,), name=self._name, daemon=True).start()

    def _serve(self, thread: _Thread) -> None:
        while (work := thread.work) is not None:
            thread.work = None
            work()
            del work  # free everything that it refers to
            with self._changing:
                if len(self._idle) >= _MOST_IDLE:
                    return
                self._idle.append(thread)
            if not thread.assigned.acquire(timeout=_STAYS):
                with self._changing:
                    if thread in self._idle:
                        self._idle.remove(thread)
                        return
                thread.assigned.acquire()  # work was assigned just when the wait ended


class _Thread:
    __slots__ = ("assigned", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.assigned = threading.Lock()
        self.assigned.acquire()
