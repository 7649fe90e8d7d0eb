"""Threads that serve connections one after the other: a new one costs more than many an Association does.

The rule it keeps: a connection never waits for a thread that is busy. An idle one takes it, the last that became idle
first, or a new one is started; those that have nothing to do for a while end, and give their memory back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

_STAYS: Final = 2.0  # seconds that a thread waits for the next connection; where they are rarer, a new one does no harm
_MOST_IDLE: Final = 32  # a burst's threads need not all stay


class Crew:
    """The threads of one acceptor. `assign` belongs to one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_Member] = []
        self._changing = threading.Lock()

    def assign(self, work: Callable[[], None]) -> None:
        """Have `work`, which never raises, done by another thread at once.

        Raises RuntimeError where no thread is to be had.
        """
        with self._changing:
            member = self._idle.pop() if self._idle else None
        if member is not None:
            member.work = work
            member.called.release()
            return
        member = _Member(work)
        threading.Thread(target=self._serve, args=(member,), name=self._name, daemon=True).start()

    def _serve(self, member: _Member) -> None:
        while (work := member.work) is not None:
            member.work = None
            work()
            del work  # with all that it holds
            with self._changing:
                if len(self._idle) >= _MOST_IDLE:
                    return
                self._idle.append(member)
            if not member.called.acquire(timeout=_STAYS):
                with self._changing:
                    if member in self._idle:
                        self._idle.remove(member)
                        return
                member.called.acquire()  # it was called this very moment


class _Member:
    __slots__ = ("called", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.called = threading.Lock()
        self.called.acquire()
