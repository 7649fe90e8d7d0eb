"""Takes audit messages from the threads in which something happened to the spool and the syslog server.

Invariants: `record` costs a place in a bounded queue and nothing else, whatever the state of disks and servers, and
events that strangers cause take no places from other events.

Behind the queue, what couldn't be delivered is retried; an event for which there is no place is lost, counted and
logged. With both a spool and a server, every message goes to the spool first, and is removed there once the server has
it: so an outage of the server, or of dicomd, loses nothing that has got that far. What dead processes left in the
journal is reported here, too. The journal is in the store, which may hang while spool and server are well, so it has a
thread of its own.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from pathlib import Path

from dicomd.audit import delivery
from dicomd.audit.alerts import MergedAlerts
from dicomd.audit.delivery import BATCH, Deliver, Forwarding, Losses, Retry, tell_defect
from dicomd.audit.events import Event, InstancesTransferred, SecurityAlert
from dicomd.audit.journal import Journal
from dicomd.audit.messages import Rendered, Reporter, render
from dicomd.audit.spool import Spool
from dicomd.audit.syslog import SyslogConnection, SyslogServer
from dicomd.audit.transfers import MOST_ENTRIES
from dicomd.audit.waiting import WaitingEvents
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.metrics import Metrics

MOST_WAITING = 10_000
"""Events in the queues: usually about 10 MB, and up to ten times that if each has as many studies as it can.

Security alerts, which anybody can cause, have one part in `waiting.ALERTS_PART` of it, and can't fill the rest."""
_REPORT_INTERVAL = 60.0  # seconds, at least, between two log lines about a failing journal
_LAST_LOOK = 0.5  # seconds, at least, for the journal at the end: what it still holds is reported again
RECOVER_EVERY = 5.0
"""Seconds between two looks for what dead processes have left in the journal."""


class AuditTrail:
    """Accepts events from all threads of a worker. To be made, and `start`ed, in the process that uses it."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        spool: Path | None = None,
        server: SyslogServer | None = None,
        journal: Path | None = None,
    ) -> None:
        """`journal` is the folder of the journal. Raises ValueError if there is neither `spool` nor `server`."""
        self._metrics = metrics
        self._reporter = Reporter(socket.gethostname() or "localhost", os.getpid())
        self._waiting = WaitingEvents()
        self._alerts, self._merging = MergedAlerts(), threading.Lock()
        self._ending = threading.Event()
        self._losses = Losses(metrics)
        self.journal = None if journal is None else Journal(journal, self._journal_failed)
        self._journal_thread: threading.Thread | None = None
        self._journal_reported_at = -math.inf
        self._threads: list[threading.Thread] = []
        connection = None
        if server is not None:
            connection = SyslogConnection(server, host=self._reporter.host, process_id=self._reporter.process_id)
        if spool is not None:
            kept = Spool(spool)
            self._begin("spool", delivery.spool_sink(kept, metrics, self._losses))
            if connection is not None:
                forwarding = Forwarding(kept, connection, metrics, self._ending)
                self._threads.append(threading.Thread(target=forwarding.run, name="audit-syslog", daemon=True))
        elif connection is not None:
            self._begin("syslog", delivery.syslog_sink(connection, metrics), connection)
        else:
            raise ValueError("an audit trail needs a spool, a syslog server, or both")

    def _begin(self, destination: str, deliver: Deliver, connection: SyslogConnection | None = None) -> None:
        thread = threading.Thread(
            target=self._deliver, args=(destination, deliver, connection), name="audit", daemon=True
        )
        self._threads.append(thread)

    def start(self) -> None:
        """Begin to deliver."""
        for thread in self._threads:
            thread.start()
        if self.journal is not None:
            self._journal_thread = threading.Thread(
                target=self._keep, args=(self.journal,), name="audit-journal", daemon=True
            )
            self._journal_thread.start()

    def record(self, event: Event) -> None:
        """Accept an event, or lose it. Never waits and never raises."""
        if isinstance(event, SecurityAlert):
            with self._merging:
                alerts = self._alerts.take(event, time.monotonic())
            for alert in alerts:
                self._put(alert)
        else:
            self._put(event)

    def _put(self, event: Event) -> None:
        if not self._waiting.put(event, MOST_WAITING):
            self._lost(event, "too many are waiting")

    def _lost(self, event: Event, why: str) -> None:
        self._losses.count(event.times if isinstance(event, SecurityAlert) else 1, why)
        if isinstance(event, InstancesTransferred) and event.delivered is not None:
            event.delivered()

    def end(self, seconds: float) -> None:
        """Deliver what is there, within `seconds`. The rest stays in the journal, or is lost and counted."""
        deadline = time.monotonic() + seconds
        with self._merging:
            alerts = self._alerts.rest()
        for alert in alerts:
            self._put(alert)
        self._ending.set()
        self._waiting.wake()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while events := self._waiting.take(BATCH, 0.0):
            self._left(events)
        self._losses.tell()
        if self.journal is not None and self._journal_thread is not None:
            self.journal.finish()
            self._journal_thread.join(max(_LAST_LOOK, deadline - time.monotonic()))

    def _left(self, events: list[Event]) -> None:
        """Account for events that couldn't be delivered. The next start reports those in the journal."""
        kept = 0
        for event in events:
            if isinstance(event, InstancesTransferred) and event.delivered is not None:
                kept += 1
            else:
                self._lost(event, "dicomd stopped before they could be delivered")
        if kept:
            get_logger().warning("audit messages will be delivered after the next start", count=kept)

    # -- in the thread that delivers -----------------------------------------------------------------------------------

    def _deliver(self, destination: str, deliver: Deliver, connection: SyslogConnection | None) -> None:
        persistence = Retry(destination, self._ending)
        while (events := self._take()) is not None:
            rendered = [(event, message) for event in events if (message := self._rendered(event)) is not None]
            messages = [message for _, message in rendered]
            try:
                persistence.until_done(lambda: deliver(messages))  # noqa: B023 - called before the next turn
            except Exception as error:
                tell_defect(self._metrics, error)
                for event in _undelivered(rendered, messages):
                    self._lost(event, "internal error")
            else:
                self._left(_undelivered(rendered, messages))
        if connection is not None:
            connection.close()

    def _take(self) -> list[Event] | None:
        """Return the next batch of events; None when there will be no more."""
        while True:
            now = time.monotonic()
            with self._merging:
                alerts, next_due = self._alerts.due(now), self._alerts.next_due()
            for alert in alerts:
                self._put(alert)
            seconds = None if next_due is None else max(0.0, next_due - now)
            if events := self._waiting.take(BATCH, seconds):
                return events
            if self._ending.is_set():
                return None

    def _rendered(self, event: Event) -> Rendered | None:
        try:
            return render(event, self._reporter)
        except Exception as error:
            tell_defect(self._metrics, error)
            self._lost(event, "internal error")
            return None

    # -- in the journal's thread ---------------------------------------------------------------------------------------

    def _keep(self, journal: Journal) -> None:
        """Remove what was reported, and look for what dead processes left, until the end. Never raises."""
        while True:
            try:
                self._recover(journal)
            except Exception as error:
                tell_defect(self._metrics, error)
            if not journal.tend(RECOVER_EVERY):
                break
        journal.close()

    def _recover(self, journal: Journal) -> None:
        """Take over what dead processes have left, as much as fits into half of the room; the rest stays there."""
        taken, most = 0, self._waiting.room(MOST_WAITING) // 2
        if most < MOST_ENTRIES:
            return
        try:
            for events in journal.recover(most):
                if not events:
                    self._losses.count(1, "the journal of a process that died can't be read")
                for event in events:
                    self._put(event)
                taken += len(events)
                if most - taken < MOST_ENTRIES:  # of which the next file may have as many
                    break
        except OSError as error:
            self._journal_failed(error)
        if taken:
            get_logger().warning("delivering audit messages left by a process that died", count=taken)

    def _journal_failed(self, error: OSError) -> None:
        """Log an error, but not each time: if one Association can't write the journal, the others can't either."""
        if time.monotonic() - self._journal_reported_at >= _REPORT_INTERVAL:
            self._journal_reported_at = time.monotonic()
            get_logger().error(
                "audit journal failed: if this process is killed, instances not yet reported are lost",
                error=error.strerror or str(error),
            )


def _undelivered(rendered: list[tuple[Event, Rendered]], messages: list[Rendered]) -> list[Event]:
    """Return the events whose messages are left; delivered ones are removed from the beginning of the list."""
    return [event for event, _ in rendered[len(rendered) - len(messages) :]]
