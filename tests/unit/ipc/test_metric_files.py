"""Metrics of several processes, as the exporter reads them while processes start and end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dicomd.ipc.metric_files import collected, forget

WORKER = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from dicomd.ipc.metric_files import use_files
from dicomd.telemetry.metrics import Metrics
for owner in sys.argv[2:]:  # the last one's, as a fork's after its parent's
    use_files(Path(sys.argv[1]), owner)
    metrics = Metrics(CollectorRegistry(), version="1", listeners=["dicom"])
metrics.listener("dicom").connected()
metrics.listener("dicom").association_opened()
"""


def work(folder: Path, *owners: str) -> None:
    subprocess.run([sys.executable, "-c", WORKER, folder, *owners], check=True, timeout=30)


def test_a_counter_goes_on_in_the_slot_of_a_dead_worker_and_a_gauge_goes_with_it(tmp_path: Path) -> None:
    registry = collected(tmp_path)
    for connections in (1, 2, 3):
        work(tmp_path, "supervisor", "0")
        assert registry.get_sample_value("dicomd_connections_total", {"listener": "dicom"}) == connections
        assert registry.get_sample_value("dicomd_associations_active", {"listener": "dicom"}) == 1
        forget(tmp_path, "0")
        assert registry.get_sample_value("dicomd_associations_active", {"listener": "dicom"}) == 0
    work(tmp_path, "1")
    assert registry.get_sample_value("dicomd_connections_total", {"listener": "dicom"}) == 4
    files = {path.name.rpartition("_")[2] for path in tmp_path.iterdir()}
    assert files == {"supervisor.db", "0.db", "1.db"}


def test_a_file_that_is_only_just_being_made_spoils_no_scrape(tmp_path: Path) -> None:
    work(tmp_path, "0")
    registry = collected(tmp_path)
    (tmp_path / "counter_7.db").touch()
    found = None
    try:
        found = registry.get_sample_value("dicomd_connections_total", {"listener": "dicom"})
    finally:
        (tmp_path / "counter_7.db").unlink()
    assert found == 1


BUSY = """
import sys, threading
from pathlib import Path
from prometheus_client import CollectorRegistry
from dicomd.ipc.metric_files import close_files, use_files
from dicomd.telemetry.metrics import Metrics
use_files(Path(sys.argv[1]), "0")
metrics = Metrics(CollectorRegistry(), version="1", listeners=["dicom"], peers=["ct1"])
sys.setswitchinterval(1e-6)
def store():
    for _ in range(500):
        metrics.store_finished(metrics.peer("ct1"), 0, received=4096, duration=0.002, sync=None)
threads = [threading.Thread(target=store) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
close_files()
"""


def test_nothing_that_threads_count_at_once_is_lost(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BUSY, tmp_path], check=True, timeout=60)
    value = collected(tmp_path).get_sample_value
    stored = {"command": "C-STORE-RSP", "status": "0000"}
    assert value("dicomd_dimse_responses_total", stored) == 4000
    assert value("dicomd_instances_stored_total") == 4000
    assert value("dicomd_store_received_bytes_total") == 4000 * 4096
    assert value("dicomd_peer_instances_total", {"peer": "ct1"}) == 4000
    assert value("dicomd_store_duration_seconds_count") == 4000
    assert value("dicomd_store_duration_seconds_bucket", {"le": "0.001"}) == 0
    assert value("dicomd_store_duration_seconds_bucket", {"le": "0.0025"}) == 4000
    assert value("dicomd_store_instance_size_bytes_sum") == 4000 * 4096
