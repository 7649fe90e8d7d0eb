"""Delivers audit messages: retries what fails, with growing pauses, and logs failures and losses sparingly.

Invariant: there is one log line when something stops working and one when it works again, however long that takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dicomd.audit.messages import Rendered, tell_delivered
from dicomd.audit.spool import Spool
from dicomd.audit.syslog import SyslogConnection
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics

BATCH = 100
"""Messages that are delivered together."""
_LOOK = 1.0  # seconds between two looks into a spool that other processes write to as well
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between two attempts
_REPORT_INTERVAL = 60.0  # seconds, at least, between two log lines about losses

Deliver = Callable[[list[Rendered]], None]
"""Delivers messages, and removes each from the list once it is delivered. Raises OSError."""


def spool_sink(spool: Spool, metrics: Metrics, losses: Losses) -> Deliver:
    """Make a function that delivers messages into the spool."""

    def deliver(messages: list[Rendered]) -> None:
        before, refused = len(messages), list[Rendered]()
        try:
            spool.put(messages, refused)
        finally:
            metrics.audit_messages.labels("spooled").inc(before - len(messages) - len(refused))
            if refused:
                losses.count(len(refused), "security alerts have filled their part of the spool")

    return deliver


def syslog_sink(connection: SyslogConnection, metrics: Metrics) -> Deliver:
    """Make a function that delivers to the syslog server: all messages, or none that can be relied on."""

    def deliver(messages: list[Rendered]) -> None:
        connection.send(messages)
        tell_delivered(messages)
        metrics.audit_messages.labels("sent").inc(len(messages))
        messages.clear()

    return deliver


class Forwarding:
    """Forwards what all processes put into a spool to the syslog server. Only one process at a time does so."""

    def __init__(self, spool: Spool, connection: SyslogConnection, metrics: Metrics, ending: threading.Event) -> None:
        self._spool, self._connection, self._metrics, self._ending = spool, connection, metrics, ending
        self._deliver = syslog_sink(connection, metrics)

    def run(self) -> None:
        """Forward messages, looking for more once a second, until `ending` is set. Never raises."""
        persistence = Retry("syslog", self._ending)
        last = False
        while not last:
            last = self._ending.is_set()  # one last turn for what was put there just before
            try:
                persistence.until_done(self._empty)
            except Exception as error:
                tell_defect(self._metrics, error)
            self._ending.wait(_LOOK)
        self._connection.close()
        self._spool.release()

    def _empty(self) -> None:
        """Forward all messages that can be read. Raises OSError, also for those that can't be: they are retried."""
        if not self._spool.claim():
            return
        unreadable: list[OSError] = []
        names = self._spool.names()  # listing a long backlog for each batch would take longer than sending it
        for at in range(0, len(names), BATCH):
            if waiting := self._spool.read(names[at : at + BATCH], unreadable):
                self._deliver([message for _, message in waiting])
                self._spool.remove([path for path, _ in waiting])
        if unreadable:
            raise unreadable[0]


class Retry:
    """Retries until an attempt succeeds, or until `ending` is set and attempts still fail."""

    def __init__(self, destination: str, ending: threading.Event) -> None:
        self._destination, self._ending = destination, ending
        self._failing = False

    def until_done(self, attempt: Callable[[], None]) -> bool:
        """Call `attempt` until it raises no OSError; return False if `ending` was set before that."""
        pause = _FIRST_PAUSE
        while True:
            try:
                attempt()
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    get_logger().warning(
                        "cannot deliver audit messages yet",
                        destination=self._destination,
                        error=error.strerror or str(error),
                    )
                if self._ending.wait(pause):
                    return False
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self._failing:
                    self._failing = False
                    get_logger().info("audit messages are delivered again", destination=self._destination)
                return True


class Losses:
    """Counts lost messages and logs them: the first at once, later ones together, at most once a minute."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._untold = 0
        self._reported_at = -_REPORT_INTERVAL

    def count(self, number: int, why: str) -> None:
        """Count `number` lost messages. May be called from any thread."""
        self._metrics.audit_messages.labels("lost").inc(number)
        with self._lock:
            self._untold += number
            if time.monotonic() - self._reported_at < _REPORT_INTERVAL:
                return
            untold, self._untold, self._reported_at = self._untold, 0, time.monotonic()
        get_logger().error("audit messages lost", lost=untold, error=why)

    def tell(self) -> None:
        """Log the losses that have not been logged yet."""
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold:
            get_logger().error("audit messages lost", lost=untold)


def tell_defect(metrics: Metrics, error: Exception) -> None:
    """Count and log an exception that nobody expected."""
    metrics.count_internal_error("audit")
    get_logger().error(Message.INTERNAL_ERROR, module="audit", exception=error)
