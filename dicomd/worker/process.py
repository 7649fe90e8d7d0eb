"""The life of a worker process, from the fork to the end of its last Association.

Invariant: the main thread never waits longer than a second and reports after each wait, because the supervisor kills a
silent worker as stuck. The supervisor's orders, a SIGTERM and the supervisor's death all have the same effect: no more
connections are accepted, the open ones end, and the process exits.
"""

from __future__ import annotations

import math
import select
import signal
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from prometheus_client import CollectorRegistry

import dicomd
from dicomd import unready
from dicomd.config.schema import Config
from dicomd.ipc.channel import ChildEnd, ChildEvent, Order
from dicomd.ipc.metric_files import use_files
from dicomd.ipc.shared_state import SlotState
from dicomd.ipc.signals import SignalPipe
from dicomd.ipc.worker_slot import WorkerSlot
from dicomd.net.listener import ListeningSocket
from dicomd.store.filesystem import FileStore
from dicomd.telemetry.logs import configure_logging, get_logger, report_suppressed
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.stdlib import route_uncaught
from dicomd.worker.memory_trim import keep_little
from dicomd.worker.worker import Worker

ABORT_GRACE = 5.0
"""Seconds for aborted Associations to end, as they may be waiting for a slow disk."""
_BEAT = 1.0  # seconds
_MAKES_ROOM = "a reload was waiting for this old configuration to end, and dicomd.drain_timeout had passed"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What all workers of a generation are given: they serve on `listeners` with `config`, storing into `store`.

    `tls` was made from the files as they were when the configuration was read, so that a replacement for a dead worker
    serves with the same ones.
    """

    config: Config
    listeners: Sequence[ListeningSocket]
    store: FileStore
    metric_folder: Path
    tls: ssl.SSLContext | None = None


def run_worker(spec: WorkerSpec, worker_slot: WorkerSlot, supervisor: ChildEnd) -> None:
    """Serve until ordered to exit; returns when the last Association has ended or was aborted."""
    config = spec.config
    keep_little()
    use_files(spec.metric_folder, str(worker_slot.slot))
    metrics = Metrics(
        CollectorRegistry(),
        version=dicomd.__version__,
        listeners=[listener.name for listener in config.listen],
        peers=[peer.name for peer in config.peers],
    )
    constants = {"dicomd_worker": str(worker_slot.slot), "dicomd_generation": worker_slot.generation}
    budget = worker_slot.log_budget
    configure_logging(config.log.format, config.log.level, metrics=metrics, constants=constants, budget=budget)
    route_uncaught()
    for ignored in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all processes, but the supervisor decides
        signal.signal(ignored, signal.SIG_IGN)
    _WorkerLoop(spec, worker_slot, supervisor, metrics).live()


class _Phase(Enum):
    SERVING = auto()
    RETIRING = auto()
    STOPPING = auto()
    ABORTED = auto()


class _WorkerLoop:
    def __init__(self, spec: WorkerSpec, worker_slot: WorkerSlot, supervisor: ChildEnd, metrics: Metrics) -> None:
        self._spec = spec
        self._worker_slot = worker_slot
        self._supervisor = supervisor
        self._signals = SignalPipe([signal.SIGTERM])
        self._worker = Worker(spec.config, spec.listeners, spec.store, metrics, worker_slot, spec.tls)
        self._phase = _Phase.SERVING
        self._deadline = math.inf
        self._why_aborted = unready.STOPPING
        self._orphaned = False

    def live(self) -> None:
        wakeup = select.epoll()
        for source in (self._supervisor, self._signals):
            wakeup.register(source.fileno(), select.EPOLLIN)
        self._worker.start()
        self._worker_slot.show_state(SlotState.READY)
        self._supervisor.say(ChildEvent.READY)
        while not self._is_over():
            self._worker.serve(wakeup.fileno(), min(_BEAT, max(0.001, self._deadline - time.monotonic())))
            self._supervisor.say(ChildEvent.BEAT)
            self._worker.notice_hanging_store()
            report_suppressed(self._worker_slot.log_budget)
            orders = self._supervisor.take()
            if Order.ORPHANED in orders and not self._orphaned:
                self._orphaned = True
                wakeup.unregister(self._supervisor.fileno())  # it would stay readable and the loop would spin
            for order in (Order.RETIRE, Order.STOP, Order.ORPHANED, Order.HURRY, Order.MAKE_ROOM):
                if order in orders:
                    self._obey(order)
            for _ in self._signals.take():
                self._obey(Order.STOP if self._phase in (_Phase.SERVING, _Phase.RETIRING) else Order.HURRY)
        self._worker.end()
        report_suppressed(self._worker_slot.log_budget, at_once=True)
        if self._worker.idle:  # else a thread is still writing; its temporary file is swept like those of a dead worker
            self._spec.store.close()

    def _obey(self, order: Order) -> None:
        if order is Order.RETIRE and self._phase is _Phase.SERVING:
            self._phase = _Phase.RETIRING
            self._worker_slot.show_state(SlotState.DRAINING)
            self._worker.retire()
            self._supervisor.say(ChildEvent.RETIRED)
        elif order in (Order.STOP, Order.ORPHANED) and self._phase in (_Phase.SERVING, _Phase.RETIRING):
            if order is Order.ORPHANED:
                get_logger().error(
                    "the supervisor has died", detail="this worker exits when its Associations have ended"
                )
            self._phase = _Phase.STOPPING
            self._worker_slot.show_state(SlotState.DRAINING)
            self._deadline = time.monotonic() + self._spec.config.dicomd.drain_timeout
            self._worker.stop()
        elif order in (Order.HURRY, Order.MAKE_ROOM) and self._phase is not _Phase.ABORTED:
            self._why_aborted = _MAKES_ROOM if order is Order.MAKE_ROOM else unready.STOPPING
            self._deadline = 0.0

    def _is_over(self) -> bool:
        if self._phase is not _Phase.SERVING and self._worker.idle:
            return True
        if time.monotonic() < self._deadline:
            return False
        if self._phase is _Phase.ABORTED:
            return True
        self._phase = _Phase.ABORTED
        self._deadline = time.monotonic() + ABORT_GRACE
        self._worker_slot.show_aborted(self._worker.abort(self._why_aborted))
        return False
