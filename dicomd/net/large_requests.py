"""A-ASSOCIATE-RQs that are longer than an Association's own buffer: few at once, and for a share of the time only.

The rules they keep: what is read of them is bounded over all connections, and for one host; only one is judged at a
time, and afterwards none for several times as long as its connection took of the processor. So whoever sends the most
expensive requests there are, from however many connections, slows other senders by that share; and a host that sends
one pays nothing. Waiting ends with ARTIM.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dicomd.net.deadlines import TimedOutError

LARGE: Final = 16 * 1024
"""Bytes: 128 Presentation Contexts with three Transfer Syntaxes each fit."""
PLACES: Final = 32
PLACES_OF_A_HOST: Final = 4
"""Of the `PLACES`: requests of one host that are read at once, by one worker."""
_REST: Final = 7
"""Times as long as one took: an eighth of a worker's time is theirs at most."""


@dataclass(frozen=True, slots=True)
class Place:
    """One of the places, and the processor time of the thread that has taken it, in seconds."""

    host: str
    began: float


class LargeRequests:
    """Counts the large requests of one worker. Safe to use from many threads."""

    def __init__(self, places: int = PLACES, of_a_host: int = PLACES_OF_A_HOST) -> None:
        self._places, self._of_a_host = places, of_a_host
        self._changing = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._judging = threading.Lock()
        self._next = 0.0  # when another one may be judged, on the monotonic clock

    def enter(self, host: str, until: float) -> Place:
        """Take a place before the rest of a request is read; wait for it in turn, up to `until` (monotonic).

        Raises `TimedOutError`.
        """
        waiter = _Waiter(host)
        with self._changing:
            if self._taken.total() < self._places and self._taken[host] < self._of_a_host:
                self._taken[host] += 1
                return Place(host, time.thread_time())
            self._waiting.append(waiter)
        if not waiter.called.acquire(timeout=_left(until)):
            with self._changing:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    raise _too_many()
        return Place(host, time.thread_time())  # whoever left has counted it in

    @contextmanager
    def turn(self, until: float) -> Iterator[None]:
        """The time to judge one and to answer it. Raises `TimedOutError` where it doesn't come up to `until`."""
        if not self._judging.acquire(timeout=_left(until)):
            raise _too_many()
        try:
            rest = self._next - time.monotonic()
            if rest > _left(until):
                raise _too_many()
            if rest > 0:
                time.sleep(rest)
            yield
        finally:
            self._judging.release()

    def leave(self, place: Place) -> None:
        """Give a place back, in the thread that took it."""
        took = time.thread_time() - place.began
        with self._changing:
            self._next = max(self._next, time.monotonic()) + _REST * took
            self._taken[place.host] -= 1
            if not self._taken[place.host]:
                del self._taken[place.host]
            called = next((each for each in self._waiting if self._taken[each.host] < self._of_a_host), None)
            if called is not None:
                self._waiting.remove(called)
                self._taken[called.host] += 1
                called.called.release()


class _Waiter:
    __slots__ = ("called", "host")

    def __init__(self, host: str) -> None:
        self.host, self.called = host, threading.Lock()
        self.called.acquire()


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _too_many() -> TimedOutError:
    return TimedOutError("too many large A-ASSOCIATE-RQs at once", "large_requests")
