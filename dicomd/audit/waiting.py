"""Events that wait for their delivery. Security alerts, which any stranger can cause, wait apart from all others.

Invariant: alerts fill only their own part of the room, and neither kind waits for the other's backlog.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice

from dicomd.audit.events import Event, SecurityAlert

ALERTS_PART = 4
"""Alerts may fill one part in so many of the room, here and in the spool."""


class WaitingEvents:
    """The events of all threads, in bounded queues."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._alerts: deque[Event] = deque()
        self._woken = False

    def put(self, event: Event, most: int) -> bool:
        """Add an event if there is room, for `most` in all; return False if there is none. Never waits for room."""
        is_alert = isinstance(event, SecurityAlert)
        queue, room = (self._alerts, most // ALERTS_PART) if is_alert else (self._events, most - most // ALERTS_PART)
        with self._changed:
            if len(queue) >= room:
                return False
            queue.append(event)
            self._changed.notify()
        return True

    def room(self, most: int) -> int:
        """Return for how many more events other than alerts there is room."""
        return most - most // ALERTS_PART - len(self._events)

    def take(self, count: int, seconds: float | None) -> list[Event]:
        """Remove and return the next events, at most `count` and some alerts among them.

        Waits up to `seconds` for one (None: as long as it takes), and not at all after `wake`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._alerts or self._woken, seconds)
            alerts = list(islice(self._alerts, max(count // ALERTS_PART, count - len(self._events))))
            events = list(islice(self._events, count - len(alerts)))
            for queue, taken in ((self._events, events), (self._alerts, alerts)):
                for _ in taken:
                    queue.popleft()
        return [*events, *alerts]

    def wake(self) -> None:
        """Make `take` stop waiting, now and later."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()
