"""Decides when the next bytes of an Association are due.

Invariant: a peer may be slow, but it can't hold an Association forever. Before and after the Association the ARTIM
timer runs (PS3.8 §9.1.5), which no trickle of bytes extends; between messages each wait is limited; inside a message
the peer has to keep a minimum rate. Only time spent waiting for the peer counts: a slow disk is not the peer's fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from dicomd.net.transport import PlainTransport

_TICKS_A_WINDOW = 4
"""How often a stalled transfer is checked in one window, at least: it is noticed at most a quarter of a window late."""
_SHORTEST_TICK = 1.0
"""Seconds of the shortest limit of a read that is kept, although the wait may last longer, to save a system call."""
_LATE = 0.05
"""Seconds that ARTIM may expire late for the same reason."""
_LONGEST_TICK = 2.0
"""Seconds after which it is checked in any case, and after which an Association that pauses is considered idle."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """`request` (ARTIM) and `idle` in seconds, `minimum_rate` in bytes per second averaged over `window` seconds."""

    request: float = 10.0
    idle: float = 60.0
    minimum_rate: float = 1024.0
    window: float = 30.0


class TimedOutError(Exception):
    """The peer exceeded the time limit that `limit` names."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class StoppedError(Exception):
    """dicomd won't wait for this Association any longer; the message says why."""


class _Phase(Enum):
    ARTIM = auto()
    BETWEEN_MESSAGES = auto()
    IN_MESSAGE = auto()


class Deadline:
    """Limits the reads of one transport; starts with ARTIM running."""

    __slots__ = (
        "_asked",
        "_bytes",
        "_expires",
        "_limits",
        "_pausing",
        "_phase",
        "_rest",
        "_tick",
        "_transport",
        "_wait",
        "_waited",
    )

    def __init__(self, transport: PlainTransport, limits: TimeLimits) -> None:
        self._transport, self._limits = transport, limits
        self._tick = min(limits.window / _TICKS_A_WINDOW, _LONGEST_TICK)
        self._wait = self._rest = 0.0  # seconds of a wait between messages: the limit now, and the rest of it
        self._pausing: bool | None = None  # how that wait began; None if a part of it has elapsed
        self._bytes = 0
        self._asked = self._waited = 0.0
        self.start_artim()

    def start_artim(self, at_most: float | None = None) -> None:
        """Restart the ARTIM timer, with a span of `at_most` seconds if that is shorter than the limit."""
        self._phase = _Phase.ARTIM
        span = self._limits.request if at_most is None else min(at_most, self._limits.request)
        self._expires = time.monotonic() + span

    @property
    def artim_ends(self) -> float:
        """When ARTIM, as it was started last, expires on the monotonic clock."""
        return self._expires

    def between_messages(self, *, pausing: bool = False) -> None:
        """From now on, each wait for bytes may last as long as an Association may be idle.

        The wait may be split into two parts; the first one ends with a call of `elapsed`. It is as long as the limit
        that is set already, so that no limit needs to be changed while messages follow each other without a pause. With
        `pausing`, it is as short as a wait inside a message: then the caller can free what it holds for the next one.
        """
        if self._phase is _Phase.BETWEEN_MESSAGES and self._pausing is pausing:
            return  # no part of the wait has elapsed
        idle = self._limits.idle
        if pausing:
            first = min(self._tick, idle)
        else:
            first = self._transport.receive_timeout
            if not _SHORTEST_TICK <= first <= idle:
                first = idle
        self._phase = _Phase.BETWEEN_MESSAGES
        self._pausing = pausing
        self._wait, self._rest = first, idle - first
        self._transport.limit_receive(first)

    def in_message(self) -> None:
        """From now on, the peer has to keep the minimum rate; if none is set, waits are limited as between messages."""
        if not self._limits.minimum_rate:
            self.between_messages()
        elif self._phase is not _Phase.IN_MESSAGE:
            self._phase = _Phase.IN_MESSAGE
            self._start_window()
            self._transport.limit_receive(self._tick)

    def before_receive(self) -> None:
        """Set the time limit of the following read. Raises `TimedOutError` if there is no time left."""
        if self._phase is _Phase.ARTIM:
            left = self._expires - time.monotonic()
            if left <= 0:
                raise TimedOutError(f"nothing complete within {self._limits.request:g} s", "request_timeout")
            if not _SHORTEST_TICK <= self._transport.receive_timeout <= left + _LATE:
                self._transport.limit_receive(left)
        elif self._phase is _Phase.IN_MESSAGE:
            self._asked = time.monotonic()

    def received(self, count: int) -> None:
        """Account for `count` bytes. Raises `TimedOutError` for a peer below the minimum rate."""
        if self._phase is _Phase.IN_MESSAGE:
            self._bytes += count
            self._check_rate()

    def elapsed(self) -> None:
        """Account for a read that reached its limit. Raises `TimedOutError` unless the peer still has time."""
        if self._phase is _Phase.BETWEEN_MESSAGES:
            if self._rest:
                self._pausing = None
                self._wait, self._rest = self._rest, 0.0
                self._transport.limit_receive(self._wait)
                return
            raise TimedOutError(f"idle for {self._limits.idle:g} s", "association_idle")
        if self._phase is _Phase.IN_MESSAGE:
            self._check_rate()

    def _check_rate(self) -> None:
        self._waited += time.monotonic() - self._asked
        if self._waited < self._limits.window:
            return
        if self._bytes < self._limits.minimum_rate * self._waited:
            message = f"only {self._bytes} bytes in {self._waited:.0f} s in the middle of a message"
            raise TimedOutError(message, "minimum_rate")
        self._start_window()

    def _start_window(self) -> None:
        self._bytes = 0
        self._waited = 0.0


class RestingDeadline(Deadline):
    """The deadline of an Association with a window, which rests while operations are outstanding.

    Until then the peer may be waiting for their responses before it goes on, so that neither the limit between messages
    nor the one inside a message can be held against it.
    """

    __slots__ = ("_quiet_since",)

    def __init__(self, transport: PlainTransport, limits: TimeLimits, quiet_since: Callable[[], float | None]) -> None:
        """`quiet_since` returns when the last operation ended (monotonic), None while one is outstanding."""
        super().__init__(transport, limits)
        self._quiet_since = quiet_since

    def elapsed(self) -> None:
        """Account for a read that reached its limit. Raises `TimedOutError` unless the peer still has time."""
        if self._phase is _Phase.BETWEEN_MESSAGES and not self._rest:
            since = self._quiet_since()
            left = self._limits.idle if since is None else since + self._limits.idle - time.monotonic()
            if left > 0:
                self._pausing = None
                self._wait = left
                self._transport.limit_receive(left)
                return
        super().elapsed()

    def _check_rate(self) -> None:
        if self._quiet_since() is None:
            self._start_window()
        else:
            super()._check_rate()
