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

LARGE_REQUEST: Final = 16 * 1024
"""Bytes: 128 Presentation Contexts with three Transfer Syntaxes each fit into it."""
PERMITS: Final = 32
"""How many large requests a worker reads at once."""
PERMITS_PER_HOST: Final = 4
"""How many of them may come from one host."""
_PAUSE: Final = 7
"""The pause after a request, as a multiple of its processor time: at most an eighth of a worker's time is theirs."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission for `host` to send one large request.

    `began` is the processor time, in seconds, that the thread had used when it was granted.
    """

    host: str
    began: float


class LargeRequests:
    """Counts the large requests of one worker. Thread-safe."""

    def __init__(self, permits: int = PERMITS, per_host: int = PERMITS_PER_HOST) -> None:
        self._permits = permits
        self._per_host = per_host
        self._changing = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._judging = threading.Lock()
        self._next = 0.0  # when the next one may be judged, on the monotonic clock

    def acquire(self, host: str, until: float) -> Permit:
        """Get a permit before the rest of a request is read. Waits for one in turn, up to `until` (monotonic).

        Raises `TimedOutError` if none becomes free in time.
        """
        waiter = _Waiter(host)
        with self._changing:
            if self._taken.total() < self._permits and self._taken[host] < self._per_host:
                self._taken[host] += 1
                return Permit(host, time.thread_time())
            self._waiting.append(waiter)
        if not waiter.granted.acquire(timeout=_left(until)):
            with self._changing:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    raise _too_many()
        return Permit(host, time.thread_time())  # already counted by the thread that released it

    @contextmanager
    def turn(self, until: float) -> Iterator[None]:
        """Hold the turn to judge and answer one request. Raises `TimedOutError` if it doesn't come by `until`."""
        if not self._judging.acquire(timeout=_left(until)):
            raise _too_many()
        try:
            pause = self._next - time.monotonic()
            if pause > _left(until):
                raise _too_many()
            if pause > 0:
                time.sleep(pause)
            yield
        finally:
            self._judging.release()

    def release(self, permit: Permit) -> None:
        """Return a permit, in the thread that got it. The first host in the queue that may have it gets it."""
        used = time.thread_time() - permit.began
        with self._changing:
            self._next = max(self._next, time.monotonic()) + _PAUSE * used
            self._taken[permit.host] -= 1
            if not self._taken[permit.host]:
                del self._taken[permit.host]
            first = next((each for each in self._waiting if self._taken[each.host] < self._per_host), None)
            if first is not None:
                self._waiting.remove(first)
                self._taken[first.host] += 1
                first.granted.release()


class _Waiter:
    __slots__ = ("granted", "host")

    def __init__(self, host: str) -> None:
        self.host = host
        self.granted = threading.Lock()  # held until a permit is granted
        self.granted.acquire()


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _too_many() -> TimedOutError:
    return TimedOutError("too many large A-ASSOCIATE-RQs at once", "large_requests")
