"""The way of an audit message: from the thread in which something happened to the spool and the syslog server.

The rules it keeps: `record` costs a place in a bounded queue and nothing else, whatever the state of disks and servers.
Behind it, what couldn't be delivered is tried again; what finds no place is lost, counted, and logged. With both a
spool and a server every message goes to the spool first, and away from it when the server has it: so an outage of the
server, or of dicomd, loses nothing that has got that far.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dicomd.audit import delivery
from dicomd.audit.delivery import BATCH, Deliver, Forwarding, Losses, Persistence, tell_defect
from dicomd.audit.events import Event, SecurityAlert
from dicomd.audit.messages import Rendered, Reporter, render
from dicomd.audit.spool import Spool
from dicomd.audit.syslog import SyslogConnection, SyslogServer
from dicomd.telemetry.metrics import Metrics

MOST_WAITING = 10_000
"""Events in the queue: some 10 MB as a rule, and as much as ten times that if each has as many studies as it can.

Security alerts, which anybody can cause, may fill half of it."""


class AuditTrail:
    """Takes events from all threads of a worker. Made, and `start`ed, in the process that uses it."""

    def __init__(self, metrics: Metrics, *, spool: Path | None = None, server: SyslogServer | None = None) -> None:
        """Raises ValueError where neither a `spool` nor a `server` is given."""
        self._metrics = metrics
        self._reporter = Reporter(socket.gethostname() or "localhost", os.getpid())
        self._events: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._ending = threading.Event()
        self._losses = Losses(metrics)
        self._threads: list[threading.Thread] = []
        connection = None
        if server is not None:
            connection = SyslogConnection(server, host=self._reporter.host, process_id=self._reporter.process_id)
        if spool is not None:
            kept = Spool(spool)
            self._begin("spool", delivery.into(kept, metrics))
            if connection is not None:
                forwarding = Forwarding(kept, connection, metrics, self._ending)
                self._threads.append(threading.Thread(target=forwarding.run, name="audit-syslog", daemon=True))
        elif connection is not None:
            self._begin("syslog", delivery.over(connection, metrics), connection)
        else:
            raise ValueError("an audit trail leads to a spool, a syslog server, or both")

    def _begin(self, destination: str, deliver: Deliver, connection: SyslogConnection | None = None) -> None:
        thread = threading.Thread(
            target=self._deliver, args=(destination, deliver, connection), name="audit", daemon=True
        )
        self._threads.append(thread)

    def start(self) -> None:
        """Begin to deliver."""
        for thread in self._threads:
            thread.start()

    def record(self, event: Event) -> None:
        """Take an event, or lose it. Never waits and never raises."""
        if isinstance(event, SecurityAlert) and self._events.qsize() >= MOST_WAITING // 2:
            self._losses.count(1, "too many are waiting")
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._losses.count(1, "too many are waiting")

    def end(self, seconds: float) -> None:
        """Deliver what is there, within `seconds`; what isn't delivered or spooled by then is lost, and counted."""
        deadline = time.monotonic() + seconds
        self._ending.set()
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(None)  # wakes who waits for an event
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := sum(event is not None for event in self._left()):
            self._losses.count(left, "dicomd stopped before they could be delivered")
        self._losses.tell()

    def _left(self) -> Iterator[Event | None]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._events.get_nowait()

    # -- in the thread that delivers -----------------------------------------------------------------------------------

    def _deliver(self, destination: str, deliver: Deliver, connection: SyslogConnection | None) -> None:
        persistence = Persistence(destination, self._ending)
        while (events := self._take()) is not None:
            messages = [message for event in events if (message := self._rendered(event)) is not None]
            try:
                persistence.insist(lambda: deliver(messages))  # noqa: B023 - called before the next turn
            except Exception as error:
                tell_defect(self._metrics, error)
            if messages:
                self._losses.count(len(messages), "they could not be delivered")
        if connection is not None:
            connection.close()

    def _take(self) -> list[Event] | None:
        """The next events, in a batch; None when there will be no more."""
        events: list[Event] = []
        while len(events) < BATCH:
            try:
                event = self._events.get(block=not events and not self._ending.is_set())
            except queue.Empty:
                break
            if event is not None:
                events.append(event)
        return events if events or not self._ending.is_set() else None

    def _rendered(self, event: Event) -> Rendered | None:
        try:
            return render(event, self._reporter)
        except Exception as error:
            tell_defect(self._metrics, error)
            self._losses.count(1, "of an internal error")
            return None
