"""Limits A-ASSOCIATE-RQs longer than an Association's own buffer: few at once, and only for a share of the time.

Invariants: how much of them is read at once is bounded over all connections, and for each host. Only one is judged at a
time, and then none for several times as long as its thread used the processor. So a sender of the most expensive
requests possible, over however many connections, slows other senders by that share at most, and a host that sends one
is not delayed. Waiting ends with ARTIM.
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
"""Bytes: 128 Presentation Contexts with three Transfer Syntaxes each fit into it."""
PLACES: Final = 32
PLACES_OF_A_HOST: Final = 4
"""How many of the `PLACES` of a worker one host may hold."""
_REST: Final = 7
"""The pause after a request, as a multiple of its processor time: at most an eighth of a worker's time is theirs."""


@dataclass(frozen=True, slots=True)
class Place:
    """One of the places, and the processor time of the thread when it took the place, in seconds."""

    host: str
    began: float


class LargeRequests:
    """Counts the large requests of one worker. Thread-safe."""

    def __init__(self, places: int = PLACES, of_a_host: int = PLACES_OF_A_HOST) -> None:
        self._places, self._of_a_host = places, of_a_host
        self._changing = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._judging = threading.Lock()
        self._next = 0.0  # when the next one may be judged, on the monotonic clock

    def enter(self, host: str, until: float) -> Place:
        """Take a place before the rest of a request is read. Waits for one in turn, up to `until` (monotonic).

        Raises `TimedOutError` if none becomes free in time.
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
        return Place(host, time.thread_time())  # the thread that left its place has counted this one in

    @contextmanager
    def turn(self, until: float) -> Iterator[None]:
        """Hold the turn to judge and answer one request. Raises `TimedOutError` if it doesn't come by `until`."""
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
        """Give a place back. Must be called in the thread that took it."""
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
