"""The exporter: the child that answers HTTP requests for the whole daemon, so that a scrape costs the workers nothing.

Invariant: its answers come from shared memory and the metric files, and never from a query to another process, which
might not answer. It runs until the last worker has exited, and exits if the supervisor dies.
"""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

import dicomd
from dicomd.config.schema import Log
from dicomd.ipc.channel import ChildEnd, ChildEvent
from dicomd.ipc.metric_files import collected, use_files
from dicomd.ipc.shared_state import SharedState
from dicomd.monitoring.http import HttpEndpoint
from dicomd.monitoring.status import Pace, from_metrics, status
from dicomd.telemetry.logs import configure_logging
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.stdlib import route_uncaught

OWNER = "exporter"
"""The owner of the exporter's own metrics; see `ipc.metric_files`."""
_BEAT = 1000  # milliseconds
_RATES = (10, 60, 300)  # seconds over which rates are averaged


@dataclass(frozen=True, slots=True)
class Exporter:
    """Serves on `sockets` what it reads elsewhere. `began` is when the daemon started, on the monotonic clock."""

    sockets: Sequence[socket.socket]
    shared_state: SharedState
    metric_folder: Path
    log: Log
    began: float
    pace: Pace = field(default_factory=Pace)

    def run(self, supervisor: ChildEnd) -> None:
        """Serve until the supervisor orders a stop, or dies."""
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        use_files(self.metric_folder, OWNER)
        metrics = Metrics(CollectorRegistry(), version=dicomd.__version__)
        budget = self.shared_state.status.log_budget
        constants = {"dicomd_worker": OWNER}
        configure_logging(self.log.format, self.log.level, metrics=metrics, constants=constants, budget=budget)
        route_uncaught()
        # Here, as no other process needs a template engine. And now rather than at the first request, as an upgrade
        # replaces the package's files while this process still serves.
        from dicomd.monitoring.page import render

        registry = collected(self.metric_folder)
        endpoints = [
            HttpEndpoint(
                sock,
                registry=registry,
                healthy=lambda: self.shared_state.supervised,
                ready=self._ready,
                status=self._status,
                page=lambda: render(self._status(), self.pace.history("instances"), socket.gethostname()),
                hosts=self._hosts,
                on_error=lambda: metrics.count_internal_error(__name__),
            )
            for sock in self.sockets
        ]
        for endpoint in endpoints:
            endpoint.start()
        poller = select.poll()
        poller.register(supervisor.fileno(), select.POLLIN)
        supervisor.say(ChildEvent.READY)
        while not supervisor.take():  # every order means that the exporter should exit
            supervisor.say(ChildEvent.BEAT)
            self.pace.look(self.shared_state)
            budget.settle()  # a worker reports it
            poller.poll(_BEAT)
        for endpoint in endpoints:
            endpoint.stop()
        budget.settle(at_once=True)

    def _ready(self) -> tuple[bool, str]:
        reason = self.shared_state.unready()
        return not reason, reason

    def _hosts(self) -> list[str]:
        """Return the names of the configuration in force, which the supervisor has published."""
        published = self.shared_state.status.supervisor()
        return published["http_hosts"] if published is not None else []

    def _status(self) -> dict[str, Any]:
        found = status(self.shared_state, self.began) | from_metrics(self.metric_folder)
        return found | {"rates": {f"{seconds}s": self.pace.rates(seconds) for seconds in _RATES}}
