"""Prometheus's counts equal the senders' counts, over two workers, the kill of one, and three reloads."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ops.prometheus import Prometheus
from tests.support import senders
from tests.support.daemon import Daemon
from tests.support.load import Load
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, instance, new_uid
from tests.support.raw_peer import RawPeer

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SENDERS, REFUSED = 4, 7


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, {"dicomd": {"workers": 2}, "log": {"level": "info", "instances": False}}) as daemon:
        yield daemon


@pytest.fixture
def prometheus(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = Path(senders.program("promtool")).with_name("prometheus")
    prometheus = Prometheus(program, tmp_path_factory.mktemp("prometheus"), "{}:{}".format(*daemon.http))
    try:
        prometheus.start()
        yield prometheus
    finally:
        prometheus.stop()


def test_prometheus_counts_what_the_senders_counted(daemon: Daemon, prometheus: Prometheus) -> None:
    acknowledged: dict[str, bytes] = {}

    def expect(what: str, count: int) -> None:
        prometheus.wait_until(lambda: prometheus.value(f"sum({what})") == count, f"{what} == {count}")

    def expect_stored() -> None:
        expect("dicomd_instances_stored_total", len(acknowledged))

    def load_while_reloading(times: int) -> None:
        with Load(daemon, senders=SENDERS, size=500) as load:
            for _ in range(times):
                assert daemon.reload()["event"] == "config applied"
        assert not load.failures, load.failures[:3]
        assert load.acknowledged
        acknowledged.update(load.acknowledged)

    expect_stored()
    with RawPeer(daemon.address) as lost, RawPeer(daemon.address) as other:
        for peer in (lost, other):  # the second goes to the worker with fewer connections
            peer.associate()
            sent = instance(size=500)
            assert peer.store(sent).status == 0
            acknowledged[sent.sop_instance_uid] = sent.data_set
        expect_stored()
        busy = {worker["pid"]: worker["associations"] for worker in daemon.status()["workers"]}
        victim = next(pid for pid, associations in busy.items() if associations)
        # All its answers have been counted; a death between an answer and its count would lose the count.
        os.kill(victim, signal.SIGKILL)
        daemon.wait_logged("worker died")
    load_while_reloading(3)
    with RawPeer(daemon.address) as refused:
        refused.associate()
        for _ in range(REFUSED):
            bad = Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(data_set(new_uid())))
            assert refused.store(bad).status == 0xA900
        refused.release()
    expect_stored()
    expect('dicomd_dimse_responses_total{command="C-STORE-RSP",status="0000"}', len(acknowledged))
    expect('dicomd_dimse_responses_total{command="C-STORE-RSP",status="A900"}', REFUSED)
    expect("dicomd_peer_instances_total", len(acknowledged))
    expect("dicomd_store_instance_size_bytes_count", len(acknowledged))
    expect("dicomd_store_instance_size_bytes_sum", sum(map(len, acknowledged.values())))
    expect('dicomd_worker_exits_total{reason="signal"}', 1)
    expect('dicomd_workers{state="ready"}', 2)
    for counter in ("dicomd_instances_stored_total", "dicomd_connections_total", "dicomd_store_received_bytes_total"):
        assert prometheus.value(f"sum(resets({counter}[10m]))") == 0, f"{counter} went backwards"
    assert daemon.status()["counters"]["instances"] == len(acknowledged)
    assert len(daemon.stored()) == len(acknowledged)
