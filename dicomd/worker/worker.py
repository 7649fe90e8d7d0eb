"""A worker: the part of dicomd that serves Associations, assembled from one immutable configuration.

Invariant: a worker is given its configuration, its sockets and its metrics, and never changes them, so that a new
configuration always means new workers.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from dicomd import unready
from dicomd.config.schema import Config
from dicomd.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomd.ipc.worker_slot import WorkerSlot
from dicomd.net.acceptor_settings import AcceptorSettings
from dicomd.net.admission import Admission, AdmissionLimits
from dicomd.net.buffers import BufferPool
from dicomd.net.connections import ConnectionReport
from dicomd.net.deadlines import TimeLimits
from dicomd.net.listener import ConnectionAcceptor, ListeningSocket
from dicomd.net.report import AssociationReport
from dicomd.services.operations import Services, Verification
from dicomd.services.storage import StorageService
from dicomd.store.filesystem import FileStore
from dicomd.store.last_stores import LastStores
from dicomd.store.state import StoreState
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.upperlayer.negotiation import Negotiator
from dicomd.worker.access_rules import access_rules
from dicomd.worker.auditing import Auditing
from dicomd.worker.checksums import ChecksumWatch
from dicomd.worker.memory_trim import MemoryTrimmer
from dicomd.worker.unreadable_files import UnreadableFiles

_CHECK_INTERVAL = 1.0  # seconds between two checks of the store


class Worker:
    """Serves Associations on `listeners` with `config`, storing into `store`, which has been started.

    `worker_slot` is where its connections are counted with those of all workers, and where it shows whether the store
    accepts instances. `tls` is used by TLS listeners.
    """

    def __init__(
        self,
        config: Config,
        listeners: Sequence[ListeningSocket],
        store: FileStore,
        metrics: Metrics,
        worker_slot: WorkerSlot,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._metrics = metrics
        self._worker_slot = worker_slot
        self._stopping = False
        self._accepted = False
        self._waits_for_space = False
        self._swept = False
        self._over = threading.Event()
        self._last_stores = LastStores(store.root)
        self._checksums = ChecksumWatch(store)
        store.share(worker_slot.pending_writes)
        store.set_callbacks(
            on_refusal=lambda reason: worker_slot.show_store(unready.of_store(reason)),
            on_unreadable=UnreadableFiles(metrics).tell,
        )
        supported = config.contexts.resolved()
        self._admission = Admission(
            AdmissionLimits(
                connections=config.limits.connections,
                associations=config.limits.associations,
            ),
            rules=access_rules(config),
            unready=self.unready,
            counter=worker_slot,
        )
        buffers = BufferPool()
        self._memory_trimmer = MemoryTrimmer(buffers.empty)
        settings = AcceptorSettings(
            negotiator=Negotiator(
                sop_classes=supported.sop_classes,
                transfer_syntaxes=supported.transfer_syntaxes,
                any_storage=supported.any_storage,
                max_pdu=config.limits.max_pdu,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
                asynchronous_operations=config.limits.asynchronous_operations,
            ),
            services=Services(verification=Verification(), storage=StorageService(store)),
            admission=self._admission,
            limits=TimeLimits(
                request=config.limits.request_timeout,
                idle=config.limits.association_idle,
                minimum_rate=config.limits.minimum_rate,
            ),
            max_pdu=config.limits.max_pdu,
            buffers=buffers,
            tls=tls,
        )
        self._audit = Auditing(config, metrics, worker_slot)
        self._acceptor = ConnectionAcceptor(
            listeners,
            settings,
            ConnectionReport(metrics, worker_slot.status, self._audit.association if self._audit.wanted else None),
            self._new_report,
            worker_slot,
        )

    def unready(self) -> str:
        """Return why no Association can be accepted at present, or an empty string if one can."""
        if self._stopping or self._worker_slot.stopping:
            return unready.STOPPING
        if self._worker_slot.maintenance:
            return f"{unready.MAINTENANCE}: `dicomd maintenance off` ends it"
        state = self._store.state
        return "" if state.accepting else unready.of_store(state.reason)

    def start(self) -> None:
        """Check the store, remove the temporary files of workers that died, and keep checking."""
        self._audit.start()
        self._store.check()
        self._accepted = self._store.state.accepting
        self._waits_for_space = self._store.state.space_low
        self._look_at_store()
        threading.Thread(target=self._watch_store, name="store-watch", daemon=True).start()

    def serve(self, wakeup: int, seconds: float) -> None:
        """Accept connections until the descriptor `wakeup` is readable or `seconds` have passed; see `retire`."""
        self._acceptor.serve(wakeup, seconds)

    def notice_hanging_store(self) -> None:
        """Refuse instances while the store's file system hangs. Called by a thread that doesn't wait for it itself."""
        self._store.notice_hanging()
        state = self._store.state
        if self._accepted and not state.accepting:
            self._show(state)

    def retire(self) -> None:
        """Accept no more connections. Those already accepted are served to their end and may still open an Association.

        From now on `serve` only waits, and returns when the last connection has ended.
        """
        self._acceptor.close()

    def stop(self) -> None:
        """Accept no more connections and no more Associations. Open Associations continue."""
        self._stopping = True
        self._acceptor.close()

    def abort(self, why: str) -> int:
        """Abort all open connections for the reason `why`, and return how many there were."""
        return self._acceptor.abort(why)

    def end(self) -> None:
        """Stop checking the store, and deliver the audit messages that are left."""
        self._over.set()
        self._note_last_stores()
        self._audit.end()

    @property
    def idle(self) -> bool:
        """Whether no connection is being served, so that nothing of the store is in use."""
        return self._acceptor.idle

    def _new_report(self, listener: str, address: str) -> AssociationReport:
        return AssociationReport(
            self._metrics,
            listener=listener,
            address=address,
            instances=self._config.log.instances,
            status_sink=self._worker_slot.status,
            audit=self._audit.association(address) if self._audit.wanted else None,
        )

    def _sweep(self) -> None:
        try:
            removed = self._store.sweep()
        except OSError as error:
            get_logger().warning("could not remove temporary files left by a crash", error=error.strerror)
            return
        if removed:
            self._metrics.store_recovered_files.labels("removed").inc(removed)
            get_logger().warning("removed temporary files left by a crash", removed=removed)

    def _watch_store(self) -> None:
        # All workers check at the same moment.
        while not self._over.wait(_CHECK_INTERVAL - time.monotonic() % _CHECK_INTERVAL):
            self._look_at_store()

    def _look_at_store(self) -> None:
        """Check the store and report changes. Never raises, or else a suspended store would never be checked again."""
        try:
            self._store.check()
            self._show(self._store.state)
            self._checksums.look(log=self._worker_slot.speaks_for_all)
            if self._accepted and not self._swept:  # also for a store whose mount was missing at the start
                self._swept = True
                self._sweep()
            self._note_last_stores()
            self._memory_trimmer.look(self._acceptor.connections)
            self._metrics.sample_process(str(self._worker_slot.slot))
        except Exception as error:
            self._metrics.count_internal_error("store")
            get_logger().error(Message.INTERNAL_ERROR, module="store", exception=error)

    def _note_last_stores(self) -> None:
        if self._store.state.accepting:
            with suppress(OSError):  # only a convenience; failures of the store are reported elsewhere
                self._last_stores.record(self._metrics.last_stores())

    def _show(self, state: StoreState) -> None:
        self._show_readiness(state)
        if (newest := self._store.state).accepting != state.accepting:  # a writer has failed, and shown it, meanwhile
            self._show_readiness(newest)
        accepted, self._accepted = self._accepted, state.accepting  # at the last check, whatever writers found since
        self._metrics.sample_store(
            accepting=state.accepting,
            avail_bytes=state.avail_bytes,
            size_bytes=state.size_bytes,
            files_avail=state.files_avail,
        )
        self._worker_slot.status.rows.measure(state.avail_bytes, state.size_bytes, state.files_avail)
        if not self._worker_slot.speaks_for_all:
            return
        root = str(self._store.root)
        if accepted and not state.accepting:
            self._waits_for_space = state.space_low
            get_logger().error(
                Message.SPACE_LOW if state.space_low else Message.STORE_UNAVAILABLE,
                detail=state.reason,
                root=root,
                avail_bytes=state.avail_bytes,
                reserve_bytes=self._config.storage.reserve_free,
            )
        elif state.accepting and not accepted:
            message = Message.SPACE_RECOVERED if self._waits_for_space else Message.STORE_RECOVERED
            get_logger().info(message, root=root, avail_bytes=state.avail_bytes)

    def _show_readiness(self, state: StoreState) -> None:
        self._worker_slot.show_store("" if state.accepting else unready.of_store(state.reason))
