"""The metrics: their names, which exist at 0, which are absent until known, and how workers' values are merged."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from dicomd.telemetry.metrics import Metrics

pytestmark = pytest.mark.usefixtures("metric_files")

COUNTERS = {
    "dicomd_connections": {"listener"},
    "dicomd_tls_handshakes": {"listener", "result"},
    "dicomd_protocol_mismatches": {"listener", "spoken"},
    "dicomd_associations": {"listener", "outcome"},
    "dicomd_associations_rejected": {"source", "reason"},
    "dicomd_aborts": {"direction", "source", "reason"},
    "dicomd_instances_stored": set(),
    "dicomd_dimse_responses": {"command", "status"},
    "dicomd_store_received_bytes": set(),
    "dicomd_store_errors": {"operation", "errno"},
    "dicomd_store_duplicates": {"result"},
    "dicomd_store_unfiled": set(),
    "dicomd_store_recovered_files": {"action"},
    "dicomd_peer_instances": {"peer"},
    "dicomd_peer_failures": {"peer", "reason"},
    "dicomd_access_refusals": {"rule", "mode"},
    "dicomd_limit_hits": {"limit"},
    "dicomd_internal_errors": {"module"},
    "dicomd_audit_messages": {"result"},
    "dicomd_log_records": {"level"},
    "dicomd_log_records_lost": set(),
    "dicomd_log_records_suppressed": set(),
    "dicomd_worker_exits": {"reason"},
}
HISTOGRAMS = {
    "dicomd_association_duration_seconds",
    "dicomd_store_duration_seconds",
    "dicomd_store_sync_duration_seconds",
    "dicomd_store_instance_size_bytes",
}
GAUGES = {
    "dicomd_associations_active": {"listener"},
    "dicomd_associations_limit": set(),
    "dicomd_store_avail_bytes": set(),
    "dicomd_store_size_bytes": set(),
    "dicomd_store_files_avail": set(),
    "dicomd_store_accepting": set(),
    "dicomd_workers": {"state"},
    "dicomd_worker_resident_memory_bytes": {"worker"},
    "dicomd_worker_open_fds": {"worker"},
    "dicomd_peer_last_store_timestamp_seconds": {"peer"},
    "dicomd_config_last_reload_successful": set(),
    "dicomd_config_last_reload_success_timestamp_seconds": set(),
    "dicomd_config_restart_pending": set(),
    "dicomd_access_open": set(),
    "dicomd_tls_certificate_not_after_timestamp_seconds": {"listener"},
    "dicomd_start_time_seconds": set(),
    "dicomd_build_info": {"version", "python"},
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), version="1.2.3", listeners=["dicom", "tls"], peers=["ct1"])


def everything_known(metrics: Metrics) -> Metrics:
    """Set the metrics that are absent until they are known."""
    metrics.sample_store(accepting=True, avail_bytes=10, size_bytes=20, files_avail=30)
    metrics.sample_process("0")
    metrics.reload_finished(successful=True, restart_pending=False)
    metrics.associations_limit.set(256)
    metrics.store_finished(metrics.peer("ct1"), 0, received=524288, duration=0.003, sync=0.001)
    metrics.count_store_error("fsync", "EIO")
    metrics.tls_certificate_not_after.labels("tls").set(time.time())
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_the_names_and_labels_are_the_published_ones(metrics: Metrics) -> None:
    families = list(everything_known(metrics).registry.collect())
    by_type = {kind: {f.name for f in families if f.type == kind} for kind in ("counter", "histogram", "gauge")}
    assert by_type == {"counter": set(COUNTERS), "histogram": HISTOGRAMS, "gauge": set(GAUGES)}
    for family in families:
        labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        assert labels == (COUNTERS | GAUGES | {name: set() for name in HISTOGRAMS})[family.name], family.name
        assert family.documentation.endswith(".")


def test_known_series_exist_at_0_from_the_start(metrics: Metrics) -> None:
    for name, labels in (
        ("dicomd_connections_total", {"listener": "tls"}),
        ("dicomd_associations_total", {"listener": "dicom", "outcome": "connection_lost"}),
        ("dicomd_associations_rejected_total", {"source": "1", "reason": "7"}),
        ("dicomd_aborts_total", {"direction": "received", "source": "0", "reason": "0"}),
        ("dicomd_dimse_responses_total", {"command": "C-STORE-RSP", "status": "A700"}),
        ("dicomd_dimse_responses_total", {"command": "C-STORE-RSP", "status": "C211"}),
        ("dicomd_dimse_responses_total", {"command": "C-ECHO-RSP", "status": "0000"}),
        ("dicomd_store_duplicates_total", {"result": "kept-both"}),
        ("dicomd_peer_instances_total", {"peer": "ct1"}),
        ("dicomd_peer_instances_total", {"peer": "unknown"}),
        ("dicomd_peer_failures_total", {"peer": "unknown", "reason": "rejected"}),
        ("dicomd_internal_errors_total", {"module": "store"}),
        ("dicomd_worker_exits_total", {"reason": "signal"}),
        ("dicomd_workers", {"state": "ready"}),
        ("dicomd_associations_active", {"listener": "dicom"}),
        ("dicomd_instances_stored_total", {}),
        ("dicomd_store_unfiled_total", {}),
        ("dicomd_store_duration_seconds_count", {}),
    ):
        assert value(metrics, name, **labels) == 0, (name, labels)


def test_what_is_not_known_yet_is_absent(metrics: Metrics) -> None:
    text = generate_latest(metrics.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in (
        "dicomd_store_avail_bytes",
        "dicomd_store_accepting",
        "dicomd_config_last_reload_success_timestamp_seconds",
    ):
        assert name not in families
    assert families["dicomd_peer_last_store_timestamp_seconds"].samples == []


def test_a_stored_instance_is_counted_everywhere(metrics: Metrics) -> None:
    metrics.store_finished(metrics.peer("ct1"), 0x0000, received=524288, duration=0.003, sync=0.001)
    assert value(metrics, "dicomd_dimse_responses_total", command="C-STORE-RSP", status="0000") == 1
    assert value(metrics, "dicomd_instances_stored_total") == 1
    assert value(metrics, "dicomd_store_received_bytes_total") == 524288
    assert value(metrics, "dicomd_peer_instances_total", peer="ct1") == 1
    assert value(metrics, "dicomd_store_duration_seconds_bucket", le="0.005") == 1
    assert value(metrics, "dicomd_store_duration_seconds_bucket", le="0.0025") == 0
    assert value(metrics, "dicomd_store_sync_duration_seconds_sum") == 0.001
    assert value(metrics, "dicomd_store_instance_size_bytes_bucket", le="1.048576e+06") == 1
    last = value(metrics, "dicomd_peer_last_store_timestamp_seconds", peer="ct1")
    assert last is not None
    assert abs(time.time() - last) < 60


def test_a_failed_store_is_counted_as_such(metrics: Metrics) -> None:
    metrics.store_finished(metrics.peer("nobody"), 0xA700, received=100, duration=0.003, sync=None)
    assert value(metrics, "dicomd_dimse_responses_total", command="C-STORE-RSP", status="A700") == 1
    assert value(metrics, "dicomd_instances_stored_total") == 0
    assert value(metrics, "dicomd_store_received_bytes_total") == 100
    assert value(metrics, "dicomd_peer_failures_total", peer="unknown", reason="store_failed") == 1
    assert value(metrics, "dicomd_store_sync_duration_seconds_count") == 0
    assert value(metrics, "dicomd_store_instance_size_bytes_count") == 0


def test_an_association_is_active_until_it_ends(metrics: Metrics) -> None:
    listener = metrics.listener("dicom")
    listener.connected()
    listener.association_opened()
    assert value(metrics, "dicomd_associations_active", listener="dicom") == 1
    listener.association_ended("released", duration=1.5, opened=True)
    listener.association_ended("rejected", duration=0.001, opened=False)
    assert value(metrics, "dicomd_associations_active", listener="dicom") == 0
    assert value(metrics, "dicomd_associations_total", listener="dicom", outcome="released") == 1
    assert value(metrics, "dicomd_association_duration_seconds_count") == 2
    with pytest.raises(KeyError):
        listener.association_ended("exploded", duration=1, opened=True)


def test_codes_that_the_standard_doesn_t_list_share_a_series(metrics: Metrics) -> None:
    metrics.count_abort("received", 77, 1)
    metrics.count_abort("received", 78, 2)
    metrics.count_reject(1, 200)
    metrics.count_response("C-STORE-RSP", 0x0110)
    metrics.count_internal_error("dicomd.net.association")
    assert value(metrics, "dicomd_aborts_total", direction="received", source="other", reason="other") == 2
    assert value(metrics, "dicomd_associations_rejected_total", source="1", reason="other") == 1
    assert value(metrics, "dicomd_dimse_responses_total", command="C-STORE-RSP", status="0110") == 1
    assert value(metrics, "dicomd_internal_errors_total", module="net") == 1


def test_this_process_is_measured(metrics: Metrics) -> None:
    metrics.sample_process("0")
    memory = value(metrics, "dicomd_worker_resident_memory_bytes", worker="0")
    descriptors = value(metrics, "dicomd_worker_open_fds", worker="0")
    assert memory is not None
    assert 2**20 < memory < 2**34
    assert descriptors == len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - as the kernel lists them


def test_a_failed_reload_keeps_the_time_of_the_last_good_one(metrics: Metrics) -> None:
    metrics.reload_finished(successful=True, restart_pending=False)
    then = value(metrics, "dicomd_config_last_reload_success_timestamp_seconds")
    metrics.reload_finished(successful=False, restart_pending=True)
    assert value(metrics, "dicomd_config_last_reload_successful") == 0
    assert value(metrics, "dicomd_config_restart_pending") == 1
    assert value(metrics, "dicomd_config_last_reload_success_timestamp_seconds") == then


@pytest.mark.parametrize("known", [False, True])
def test_promtool_has_nothing_to_say(metrics: Metrics, known: bool) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    text = generate_latest((everything_known(metrics) if known else metrics).registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_workers_merge_in_prometheus_s_multiprocess_files(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from dicomd.ipc.metric_files import use_files
from dicomd.telemetry.metrics import Metrics
use_files(Path(sys.argv[2]), sys.argv[1])
metrics = Metrics(CollectorRegistry(), version="1", listeners=["dicom"], peers=["ct1"])
metrics.listener("dicom").association_opened()
metrics.store_finished(metrics.peer("ct1"), 0, received=1000, duration=0.003, sync=0.001)
metrics.sample_store(accepting=sys.argv[1] == "0", avail_bytes=10, size_bytes=20, files_avail=30)
metrics.sample_process(sys.argv[1])
metrics.reload_finished(successful=True, restart_pending=False)
"""
    for slot in ("0", "1", "1"):  # the second worker in slot 1 replaces one that died
        subprocess.run([sys.executable, "-c", script, slot, tmp_path], check=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    get = registry.get_sample_value
    assert get("dicomd_instances_stored_total") == 3
    assert get("dicomd_peer_instances_total", {"peer": "ct1"}) == 3
    assert get("dicomd_store_duration_seconds_count") == 3
    assert get("dicomd_dimse_responses_total", {"command": "C-STORE-RSP", "status": "A700"}) == 0
    assert get("dicomd_store_accepting") == 0
    assert get("dicomd_store_avail_bytes") == 10
    assert get("dicomd_worker_open_fds", {"worker": "1"}) is not None
    assert get("dicomd_config_last_reload_successful") == 1
    # A counting gauge would continue from the dead worker's value, so its live files are removed before slot reuse.
    assert get("dicomd_associations_active", {"listener": "dicom"}) == 3
