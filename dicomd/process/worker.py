"""A worker: the part of dicomd that serves Associations, wired together from one immutable configuration.

The rule it keeps: a worker gets its configuration, its sockets and its metrics from outside and never changes them, so
that a new configuration is a new worker.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dicomd.config.schema import Config
from dicomd.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomd.net.admission import Admission, AdmissionLimits
from dicomd.net.association import AcceptorSettings
from dicomd.net.buffers import BufferPool
from dicomd.net.deadlines import TimeLimits
from dicomd.net.listener import ConnectionAcceptor, Listener
from dicomd.net.report import AssociationReport, ConnectionReport
from dicomd.services.operations import Services, Verification
from dicomd.services.storage import Storage
from dicomd.store.filesystem import FileStore, StoreState
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.upperlayer.negotiation import Negotiator

_CHECK_INTERVAL = 1.0  # seconds between two looks at the store


class Worker:
    """Serves Associations on `listeners` with `config`, storing into `store`, which has been started."""

    def __init__(self, config: Config, listeners: Sequence[Listener], store: FileStore, metrics: Metrics) -> None:
        self._config, self._store, self._metrics = config, store, metrics
        self._draining = self._watching = False
        self._accepted = store.state.accepting
        self._stopped = threading.Event()
        supported = config.contexts.resolved()
        self._admission = Admission(
            AdmissionLimits(
                connections=config.limits.connections,
                associations=config.limits.associations,
                per_peer=config.limits.associations_per_peer,
            ),
            ae_titles=frozenset(config.dicomd.ae_titles),
            unready=self.unready,
        )
        settings = AcceptorSettings(
            negotiator=Negotiator(
                sop_classes=supported.sop_classes,
                transfer_syntaxes=supported.transfer_syntaxes,
                max_pdu=config.limits.max_pdu,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            ),
            services=Services(verification=Verification(), storage=Storage(store)),
            admission=self._admission,
            limits=TimeLimits(
                request=config.limits.request_timeout,
                idle=config.limits.association_idle,
                minimum_rate=config.limits.minimum_rate,
            ),
            max_pdu=config.limits.max_pdu,
            buffers=BufferPool(),
        )
        self._acceptor = ConnectionAcceptor(listeners, settings, ConnectionReport(metrics), self._new_report)

    def unready(self) -> str:
        """Why no Association can be taken at present; empty when one can."""
        if self._draining:
            return "dicomd stops"
        state = self._store.state
        return "" if state.accepting else f"the store takes nothing: {state.reason}"

    @property
    def open_associations(self) -> int:
        """How many Associations are open now."""
        return self._admission.open_associations

    def serve_until(self, wakeup: int) -> None:
        """Serve until the descriptor `wakeup` is readable. Blocks."""
        if not self._watching:
            self._watching = True
            self._look_at_store()
            threading.Thread(target=self._watch_store, name="store-watch", daemon=True).start()
        self._acceptor.accept_until(wakeup)

    def stop_listening(self) -> None:
        """Refuse new connections, and new Associations on those that were accepted already."""
        self._draining = True
        self._acceptor.close()

    def drain(self) -> int:
        """Let open Associations end, abort what is left after `drain_timeout`; return how many."""
        aborted = self._acceptor.drain(self._config.dicomd.drain_timeout)
        self._stopped.set()
        return aborted

    @property
    def idle(self) -> bool:
        """Whether no connection is being served: nothing of the store is in use then."""
        return self._acceptor.idle

    def hurry(self) -> None:
        """Cut a drain short. May be called from a signal's Python handler."""
        self._acceptor.hurry()

    def _new_report(self, listener: str, address: str) -> AssociationReport:
        return AssociationReport(
            self._metrics, listener=listener, address=address, instances=self._config.log.instances
        )

    def _watch_store(self) -> None:
        while not self._stopped.wait(_CHECK_INTERVAL):
            self._look_at_store()

    def _look_at_store(self) -> None:
        """Never raises: a store that was suspended would never be looked at again."""
        try:
            self._store.check()
            self._show(self._store.state)
            self._metrics.sample_process("0")
        except Exception as error:
            self._metrics.count_internal_error("store")
            get_logger().error(Message.INTERNAL_ERROR, module="store", exception=error)

    def _show(self, state: StoreState) -> None:
        accepted, self._accepted = self._accepted, state.accepting  # when last looked at, whatever a writer found since
        self._metrics.sample_store(
            accepting=state.accepting,
            avail_bytes=state.avail_bytes,
            size_bytes=state.size_bytes,
            files_avail=state.files_avail,
        )
        root = str(self._store.root)
        if accepted and not state.accepting:
            get_logger().error(
                Message.SPACE_LOW,
                detail=state.reason,
                root=root,
                avail_bytes=state.avail_bytes,
                reserve_bytes=self._config.storage.reserve_free,
            )
        elif state.accepting and not accepted:
            get_logger().info(Message.SPACE_RECOVERED, root=root, avail_bytes=state.avail_bytes)
