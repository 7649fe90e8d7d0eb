"""All metrics of dicomd, with their labels at 0 from the start.

What happens once per instance or per Association goes through a method that has resolved its series beforehand; all
others are prometheus_client's own objects, to be used as such. All of them are kept in prometheus_client's multiprocess
files, so `ipc.metric_files.use_files` must be called before a `Metrics` is made. Each gauge says how it is merged over
workers, and none uses callbacks, which those files can't carry. Therefore the process that owns them sets the store's
gauges and calls `sample_process` once a second.
"""

import os
import platform
import time
from collections.abc import Iterable
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from dicomd.telemetry import labels
from dicomd.telemetry.cells import LOCK, HistogramCells, cell_of

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

# Seconds. Storing: from a cached write to a failing disk. Associations: from an echo to an archive's migration.
STORE_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ASSOCIATION_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
# Bytes: 1 KiB to 4 GiB in steps of four; a CT slice has 512 KiB, a multi-frame object gigabytes.
INSTANCE_BYTES: Final = tuple(float(4**n) for n in range(5, 17))

# How the gauges of several workers become one; those that start with "live" only use workers that are alive.
Merge = Literal["livesum", "livemin", "livemostrecent", "mostrecent", "min", "max"]


class Metrics:
    """The metrics of CONTRACT 6 in one registry.

    ``listeners`` and ``peers`` are the configured names; a peer that isn't among them counts as "unknown".
    """

    def __init__(
        self, registry: CollectorRegistry, *, version: str, listeners: Iterable[str] = (), peers: Iterable[str] = ()
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series of counters, and the multiprocess files have none
        self.registry = registry
        self._connections_and_associations()
        self._store()
        self._process(version)
        self._listeners = {name: ListenerSeries(self, name) for name in listeners}
        self._peers = {name: PeerSeries(self, name) for name in (*peers, labels.UNKNOWN_PEER)}
        self._start_at_zero()

    def listener(self, name: str) -> "ListenerSeries":
        """The series of a configured listener. Raises KeyError for a name that isn't one."""
        return self._listeners[name]

    def peer(self, name: str) -> "PeerSeries":
        """The series of a configured peer, or of "unknown"; callers keep it for a whole Association."""
        return self._peers.get(name) or self._peers[labels.UNKNOWN_PEER]

    @property
    def peer_names(self) -> list[str]:
        """The configured peers, and "unknown"."""
        return list(self._peers)

    def last_stores(self) -> dict[str, float]:
        """When each peer last stored in this process, in seconds since 1970, if known."""
        return {
            sample.labels["peer"]: sample.value
            for metric in self.peer_last_store.collect()
            for sample in metric.samples
        }

    def restore_last_stores(self, known: dict[str, float]) -> None:
        """Set the times that were known before the start."""
        for peer, seconds in known.items():
            self.peer_last_store.labels(peer).set(seconds)

    def store_finished(
        self, peer: "PeerSeries", status: int, *, received: int, duration: float, sync: float | None
    ) -> None:
        """Count a C-STORE answered by ``status``: ``received`` bytes of Data Set, ``duration`` seconds from RQ to RSP.

        ``sync`` is how many of these seconds were spent syncing, None if nothing was synced. Costs about 2 µs.
        """
        response = self._response("C-STORE-RSP", status)
        with LOCK:
            response[0] += 1
            self._received_bytes[0] += received
            self._store_seconds.add(duration)
            if sync is not None:
                self._sync_seconds.add(sync)
            if status == 0:
                self._stored[0] += 1
                self._instance_bytes.add(received)
                peer.stored()
        if status != 0:
            peer.failed("store_failed")

    def count_response(self, command: str, status: int) -> None:
        """Count a DIMSE response sent; for a C-STORE-RSP `store_finished` does that."""
        response = self._response(command, status)
        with LOCK:
            response[0] += 1

    def _response(self, command: str, status: int) -> "memoryview[float]":
        cell = self._responses.get((command, status))
        return cell or cell_of(self.dimse_responses.labels(*labels.response_labels(command, status)))

    def count_reject(self, source: int, reason: int) -> None:
        """Count an A-ASSOCIATE-RJ sent, by its codes (PS3.8 Table 9-21)."""
        self.associations_rejected.labels(*labels.reject_codes(source, reason)).inc()

    def count_abort(self, direction: Literal["sent", "received"], source: int, reason: int) -> None:
        """Count an A-ABORT sent or received, by its codes (PS3.8 Table 9-26)."""
        self.aborts.labels(direction, *labels.abort_codes(source, reason)).inc()

    def count_store_error(self, operation: str, errno: str) -> None:
        """Count a failed operation of the store ("fsync") with its symbolic errno ("EIO", or "")."""
        self.store_errors.labels(operation, labels.errno_label(errno)).inc()

    def count_internal_error(self, module: str) -> None:
        """Count an unexpected exception in the module of that ``__name__``."""
        self.internal_errors.labels(labels.module_label(module)).inc()

    def count_access_refusal(self, rule: str, *, audited: bool) -> None:
        """Count a peer that ``rule``, one of `labels.ACCESS_RULES`, refused, or with ``audited`` would have refused."""
        self.access_refusals.labels(rule, labels.ACCESS_MODES[audited]).inc()

    def count_limit(self, limit: str) -> None:
        """Count that a limit was reached: one of `labels.LIMITS`, "" for none."""
        if limit:
            self.limit_hits.labels(limit if limit in labels.LIMITS else labels.OTHER).inc()

    def sample_store(self, *, accepting: bool, avail_bytes: int, size_bytes: int, files_avail: int) -> None:
        """Record what the store's last check found."""
        self.store_accepting.set(float(accepting))
        self.store_avail_bytes.set(avail_bytes)
        self.store_size_bytes.set(size_bytes)
        self.store_files_avail.set(files_avail)

    def sample_process(self, worker: str) -> None:
        """Record resident memory and open descriptors of this process under the worker's slot."""
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - the cheapest way, used once a second
            resident = int(statm.read().split()[1]) * _PAGE
        self.worker_resident_memory.labels(worker).set(resident)
        self.worker_open_fds.labels(worker).set(len(os.listdir("/proc/self/fd")) - 1)  # noqa: PTH208 - minus that of the listing

    def reload_finished(self, *, successful: bool, restart_pending: bool) -> None:
        """Record that a configuration was applied or rejected; that of the start counts as the first."""
        self.config_last_reload_successful.set(float(successful))
        self.config_restart_pending.set(float(restart_pending))
        if successful:
            self.config_last_reload_success_timestamp.set(time.time())

    def _connections_and_associations(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.connections = counter("connections", "TCP connections accepted.", "listener")
        self.tls_handshakes = counter("tls_handshakes", "TLS handshakes by result.", "listener", "result")
        self.protocol_mismatches = counter(
            "protocol_mismatches",
            "Connections of peers that spoke another protocol than the listener, by what they spoke.",
            "listener",
            "spoken",
        )
        self.associations = counter("associations", "Associations ended, by outcome.", "listener", "outcome")
        self.associations_rejected = counter(
            "associations_rejected", "A-ASSOCIATE-RJ sent, by the codes of PS3.8 Table 9-21.", "source", "reason"
        )
        self.aborts = counter(
            "aborts", "A-ABORT sent and received, by the codes of PS3.8 Table 9-26.", "direction", "source", "reason"
        )
        self.association_duration = self._histogram(
            "association_duration_seconds", "From the A-ASSOCIATE-RQ to the end of the connection.", ASSOCIATION_SECONDS
        )
        self.associations_active = gauge("associations_active", "Associations open now.", "livesum", "listener")
        self.associations_limit = self._late(
            "associations_limit", "Associations that may be open at once.", "livemostrecent"
        )
        self.tls_certificate_not_after = gauge(
            "tls_certificate_not_after_timestamp_seconds",
            "When the listener's certificate expires.",
            "livemostrecent",
            "listener",
        )
        self.access_open = gauge(
            "access_open", "1 if no peers are configured, so that every peer may store.", "livemostrecent"
        )
        self.access_refusals = counter(
            "access_refusals", "Refusals by an access rule, or admissions against it in audit mode.", "rule", "mode"
        )
        self.limit_hits = counter("limit_hits", "How often a limit was reached.", "limit")
        self.peer_instances = counter("peer_instances", "SOP Instances stored, by peer.", "peer")
        self.peer_failures = counter("peer_failures", "Associations and stores that failed, by peer.", "peer", "reason")
        self.peer_last_store = gauge(
            "peer_last_store_timestamp_seconds", "When the peer last stored a SOP Instance.", "max", "peer"
        )

    def _store(self) -> None:
        counter, histogram = self._counter, self._histogram
        self.dimse_responses = counter("dimse_responses", "DIMSE responses sent, by status.", "command", "status")
        self.instances_stored = counter("instances_stored", "C-STORE requests answered with success.")
        self.store_received_bytes = counter("store_received_bytes", "Bytes of Data Sets received.")
        self.store_errors = counter("store_errors", "Failed operations of the store.", "operation", "errno")
        self.store_duplicates = counter(
            "store_duplicates", "SOP Instances that were already stored, by what was done.", "result"
        )
        self.store_unfiled = counter(
            "store_unfiled", "SOP Instances that could not be filed and were kept unfiled, instead of being refused."
        )
        self.store_recovered_files = counter(
            "store_recovered_files", "Temporary files left by a crash and handled at the start.", "action"
        )
        self.store_duration = histogram("store_duration_seconds", "From a C-STORE-RQ to its response.", STORE_SECONDS)
        self.store_sync_duration = histogram(
            "store_sync_duration_seconds", "Syncing one SOP Instance to the disk.", STORE_SECONDS
        )
        self.store_instance_size = histogram(
            "store_instance_size_bytes", "Size of the Data Sets of stored SOP Instances.", INSTANCE_BYTES
        )
        self.store_accepting = self._late("store_accepting", "1 while the store accepts instances.", "livemin")
        self.store_avail_bytes = self._late("store_avail_bytes", "Space the store may still use.", "livemostrecent")
        self.store_size_bytes = self._late("store_size_bytes", "Size of the store's file system.", "livemostrecent")
        self.store_files_avail = self._late("store_files_avail", "Inodes the store may still use.", "livemostrecent")
        self._stored = cell_of(self.instances_stored)
        self._received_bytes = cell_of(self.store_received_bytes)
        self._store_seconds = HistogramCells(self.store_duration)
        self._sync_seconds = HistogramCells(self.store_sync_duration)
        self._instance_bytes = HistogramCells(self.store_instance_size)
        self._responses = {
            (command, status): cell_of(self.dimse_responses.labels(*labels.response_labels(command, status)))
            for command, statuses in labels.RESPONSE_STATUSES.items()
            for status in statuses
        }

    def _process(self, version: str) -> None:
        counter, gauge = self._counter, self._gauge
        self.internal_errors = counter("internal_errors", "Unexpected exceptions; each is a bug.", "module")
        self.audit_messages = counter("audit_messages", "Audit messages, by what became of them.", "result")
        self.log_records = counter("log_records", "Log lines, by level.", "level")
        self.log_records_lost = counter("log_records_lost", "Log lines that could not be written.")
        self.log_records_suppressed = counter(
            "log_records_suppressed", "Log lines left out because their address had caused too many."
        )
        self.worker_exits = counter("worker_exits", "Worker processes that ended.", "reason")
        self.workers = gauge("workers", "Worker processes, by state.", "livemostrecent", "state")
        self.worker_resident_memory = gauge(
            "worker_resident_memory_bytes", "Resident memory.", "livemostrecent", "worker"
        )
        self.worker_open_fds = gauge("worker_open_fds", "Open file descriptors.", "livemostrecent", "worker")
        self.config_last_reload_successful = self._late(
            "config_last_reload_successful", "1 if the last configuration read is in use.", "mostrecent"
        )
        self.config_last_reload_success_timestamp = self._late(
            "config_last_reload_success_timestamp_seconds", "When a configuration was last applied.", "mostrecent"
        )
        self.config_restart_pending = self._late(
            "config_restart_pending", "1 if the configuration has changes that only a restart applies.", "mostrecent"
        )
        gauge("start_time_seconds", "When dicomd started.", "min").set(time.time())
        build = gauge("build_info", "1, labelled with the versions that run.", "max", "version", "python")
        build.labels(version, platform.python_version()).set(1)

    def _start_at_zero(self) -> None:
        for name in self._listeners:
            self.connections.labels(name)
            for result in labels.TLS_RESULTS:
                self.tls_handshakes.labels(name, result)
            for spoken in labels.SPOKEN:
                self.protocol_mismatches.labels(name, spoken)
        for source, reasons in labels.REJECT_REASONS.items():
            for reason in reasons:
                self.associations_rejected.labels(*labels.reject_codes(source, reason))
        for source, reasons in labels.ABORT_REASONS.items():
            for reason in reasons:
                for direction in labels.ABORT_DIRECTIONS:
                    self.aborts.labels(direction, *labels.abort_codes(source, reason))
        for rule in labels.ACCESS_RULES:
            for mode in labels.ACCESS_MODES:
                self.access_refusals.labels(rule, mode)
        for metric, values in (
            (self.limit_hits, labels.LIMITS),
            (self.store_duplicates, labels.DUPLICATE_RESULTS),
            (self.store_recovered_files, labels.RECOVERY_ACTIONS),
            (self.internal_errors, (*labels.MODULES, labels.OTHER)),
            (self.audit_messages, labels.AUDIT_RESULTS),
            (self.log_records, ("debug", "info", "warning", "error", "critical")),
            (self.worker_exits, labels.WORKER_EXIT_REASONS),
            (self.workers, labels.WORKER_STATES),
        ):
            for value in values:
                metric.labels(value)

    def _counter(self, name: str, documentation: str, *labelnames: str) -> Counter:
        return Counter(f"dicomd_{name}_total", documentation, labelnames, registry=self.registry)

    def _gauge(self, name: str, documentation: str, merge: Merge, *labelnames: str) -> Gauge:
        return Gauge(f"dicomd_{name}", documentation, labelnames, registry=self.registry, multiprocess_mode=merge)

    def _late(self, name: str, documentation: str, merge: Merge) -> "LateGauge":
        return LateGauge(f"dicomd_{name}", documentation, merge, self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"dicomd_{name}", documentation, registry=self.registry, buckets=buckets)


class LateGauge:
    """A gauge that is absent until its value is known, since "0 bytes available" would raise an alert."""

    def __init__(self, name: str, documentation: str, merge: Merge, registry: CollectorRegistry) -> None:
        self._arguments: tuple[Any, ...] = (name, documentation, merge, registry)
        self._gauge: Gauge | None = None

    def set(self, value: float) -> None:
        """Set the value; the first call creates the metric. Not thread-safe."""
        if self._gauge is None:
            name, documentation, merge, registry = self._arguments
            self._gauge = Gauge(name, documentation, registry=registry, multiprocess_mode=merge)
        self._gauge.set(value)


class ListenerSeries:
    """The series that are counted for each connection of one listener."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._active = cell_of(metrics.associations_active.labels(name))
        self._outcomes = {
            outcome: cell_of(metrics.associations.labels(name, outcome)) for outcome in labels.ASSOCIATION_OUTCOMES
        }
        self._seconds = HistogramCells(metrics.association_duration)
        self._connections = cell_of(metrics.connections.labels(name))
        self._handshakes = {result: metrics.tls_handshakes.labels(name, result) for result in labels.TLS_RESULTS}
        self._mismatches = {spoken: metrics.protocol_mismatches.labels(name, spoken) for spoken in labels.SPOKEN}

    def handshake(self, result: str) -> None:
        """Count a finished TLS handshake. Raises KeyError for a result that isn't one of `labels.TLS_RESULTS`."""
        self._handshakes[result].inc()

    def mismatch(self, spoken: str) -> None:
        """Count a peer that spoke another protocol. Raises KeyError for one that isn't one of `labels.SPOKEN`."""
        self._mismatches[spoken].inc()

    def connected(self) -> None:
        """Count an accepted TCP connection."""
        with LOCK:
            self._connections[0] += 1

    def association_opened(self) -> None:
        """Count an accepted Association as active."""
        with LOCK:
            self._active[0] += 1

    def association_ended(self, outcome: str, *, duration: float, opened: bool) -> None:
        """Count an Association that ended or was rejected, ``duration`` seconds after its request.

        ``opened``: it was accepted, and `association_opened` called. Raises KeyError for an outcome that isn't one of
        `labels.ASSOCIATION_OUTCOMES`.
        """
        ended = self._outcomes[outcome]
        with LOCK:
            ended[0] += 1
            self._seconds.add(duration)
            if opened:
                self._active[0] -= 1


class PeerSeries:
    """The series of one configured peer, or of all that aren't configured."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name = name
        self._instances = cell_of(metrics.peer_instances.labels(name))
        self._failures = {reason: metrics.peer_failures.labels(name, reason) for reason in labels.PEER_FAILURE_REASONS}
        self._metrics = metrics
        self._last_store: memoryview[float] | None = None  # the timestamp is absent until it is known

    def stored(self) -> None:
        """Count an instance stored now. For `Metrics.store_finished`, which holds the lock of the cells."""
        self._instances[0] += 1
        if self._last_store is None:
            self._last_store = cell_of(self._metrics.peer_last_store.labels(self.name))
        self._last_store[0] = time.time()

    def failed(self, reason: str) -> None:
        """Count a failed Association or store; raises KeyError if ``reason`` isn't in `labels.PEER_FAILURE_REASONS`."""
        self._failures[reason].inc()
