"""Events that wait for their delivery: security alerts, which any stranger can cause, apart from all others.

Invariant: alerts fill their own part of the room and no other event's, and neither kind waits for the other's backlog.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice

from dicomd.audit.events import Event, SecurityAlert

ALERTS_PART = 4
"""Alerts may fill one part in so many, here and in the spool."""


class WaitingEvents:
    """The events of all threads, in bounded queues."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._alerts: deque[Event] = deque()
        self._woken = False

    def put(self, event: Event, most: int) -> bool:
        """Take an event where there is room, of `most` in all; False where there is none. Never waits for room."""
        is_alert = isinstance(event, SecurityAlert)
        queue, room = (self._alerts, most // ALERTS_PART) if is_alert else (self._events, most - most // ALERTS_PART)
        with self._changed:
            if len(queue) >= room:
                return False
            queue.append(event)
            self._changed.notify()
        return True

    def room(self, most: int) -> int:
        """For how many more events that are no alerts there is room."""
        return most - most // ALERTS_PART - len(self._events)

    def take(self, count: int, seconds: float | None) -> list[Event]:
        """The next events, `count` at most and some alerts among them.

        Waits so many seconds for one, None for as long as it takes, and not at all after `wake`.
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
        """From now on `take` waits for nothing."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()
