"""Workers and their supervisor: who serves, which workers are replaced, and that none outlives the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.daemon import Daemon
from tests.support.encoding import p_data, pdv
from tests.support.failed_start import failed_start
from tests.support.load import Load
from tests.support.objects import instance
from tests.support.processes import descriptors, exists
from tests.support.raw_peer import associate_rq, c_store_rq, store_message
from tests.support.waiting import wait_until
from tests.support.workers import one_association_each

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

TWO = {"workers": 2, "drain_timeout": "10s"}


def test_connections_are_shared_out_evenly(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd=TWO)
    splits: list[list[int]] = []
    # A round may be uneven: a worker that gets no CPU for some milliseconds loses its turn, as happens often on a busy
    # machine. But if workers took no turns, one of them would get all connections in every round.
    while sum(split in ([4, 4], [3, 5]) for split in splits) < 2:
        assert len(splits) < 12, splits
        peers = [connect(daemon) for _ in range(8)]
        for peer in peers:
            peer.associate()
        splits.append(sorted(worker["associations"] for worker in daemon.status()["workers"]))
        for peer in peers:
            assert peer.store(instance()).status == 0
            peer.release()
        wait_until(daemon.connections, equals=0)
    assert len(daemon.stored()) == 8 * len(splits)
    assert daemon.metric("dicomd_instances_stored_total") == 8 * len(splits)
    assert daemon.metric("dicomd_workers", state="ready") == 2


def test_a_killed_worker_is_replaced_and_nothing_acknowledged_is_lost(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd=TWO)
    counts: list[float] = []
    with Load(daemon, senders=4) as load:
        for kill in range(3):
            target = len(load.acknowledged) + 30
            wait_until(lambda: len(load.acknowledged), until=lambda count, target=target: count >= target)
            victim = min(daemon.worker_pids())
            os.kill(victim, signal.SIGKILL)
            daemon.wait_metric("dicomd_worker_exits_total", kill + 1, reason="signal")
            wait_until(lambda: list(daemon.worker_pids().values()), 20, equals=["ready", "ready"])
            counts.append(daemon.metric("dicomd_instances_stored_total"))
        target = len(load.acknowledged) + 30
        wait_until(lambda: len(load.acknowledged), until=lambda count: count >= target)
    assert load.lost() == []
    assert len(load.failures) <= 4 * 3, load.failures
    counts.append(daemon.metric("dicomd_instances_stored_total"))
    assert counts == sorted(counts)
    assert counts[-1] >= len(load.acknowledged) - 4 * 3  # answers are counted after they have been sent
    died = daemon.logged("worker died", reason="signal")
    assert len(died) == 3
    assert all(record["detail"] == "ended by SIGKILL" for record in died)
    daemon.wait_metric("dicomd_associations_active", 0, listener="dicom")


def test_what_a_killed_worker_leaves_is_removed_by_the_next(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd=TWO)
    unfinished = instance(size=50_000)
    peers = one_association_each(daemon, connect)
    for each in peers.values():
        each.send(p_data(pdv(1, 3, c_store_rq(unfinished))) + p_data(pdv(1, 0, unfinished.data_set[:20_000])))
    wait_until(lambda: len(daemon.temporary_files()), equals=2)
    first, second = peers
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(daemon.temporary_files()), equals=1)
    daemon.wait_metric("dicomd_store_recovered_files_total", 1, action="removed")
    os.kill(second, signal.SIGKILL)
    daemon.wait_no_temporary_files()


def test_a_stopped_worker_is_replaced_alone(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd=TWO)
    peers = one_association_each(daemon, connect)
    first, second = peers
    os.kill(first, signal.SIGSTOP)
    try:
        assert first in daemon.worker_pids()  # it is shown although it can't answer
        daemon.wait_logged("worker died", deadline=20, reason="stuck", worker_pid=first)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGCONT)
    wait_until(lambda: list(daemon.worker_pids().values()), equals=["ready", "ready"])
    assert second in daemon.worker_pids()
    assert peers[second].echo().status == 0
    with pytest.raises(OSError):  # noqa: PT011 - however the worker's end shows
        peers[first].echo()
    assert daemon.metric("dicomd_worker_exits_total", reason="stuck") == 1


def test_workers_leave_with_the_supervisor_and_the_port_is_free(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd=TWO | {"drain_timeout": "3s"})
    peer = connect(daemon)
    peer.associate()
    assert peer.store(instance()).status == 0
    family = daemon.pids()
    os.kill(daemon.pid, signal.SIGKILL)

    def is_free() -> bool:
        try:
            socket.create_server(daemon.address).close()
        except OSError:
            return False
        return True

    wait_until(is_free, 5)
    assert peer.store(instance()).status == 0  # open Associations may finish
    peer.release()
    wait_until(lambda: [pid for pid in family if exists(pid)], 5, equals=[])
    assert daemon.wait() == -signal.SIGKILL
    daemon.start()
    assert len(daemon.stored()) == 2


def test_a_dead_exporter_comes_back(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd=TWO)
    (exporter,) = set(daemon.pids()) - {daemon.pid, *daemon.worker_pids()}
    os.kill(exporter, signal.SIGKILL)
    daemon.wait_logged("exporter died")
    wait_until(daemon.ready)
    assert daemon.metric("dicomd_worker_exits_total", reason="signal") == 0


def test_a_worker_asked_to_leave_by_hand_drains_and_is_replaced(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    peer = connect(daemon)
    peer.associate()
    (worker,) = daemon.worker_pids()
    os.kill(worker, signal.SIGTERM)
    assert peer.store(instance()).status == 0
    peer.release()
    daemon.wait_metric("dicomd_worker_exits_total", 1, reason="drained")
    wait_until(daemon.ready)
    assert daemon.logged("worker died") == []


@pytest.mark.parametrize("limit", ["associations", "associations_per_peer"])
def test_limits_hold_across_workers_and_come_back_with_a_dead_one(
    start_daemon: StartDaemon, connect: Connect, limit: str
) -> None:
    daemon = start_daemon(dicomd=TWO, limits={limit: 4})
    peers = [connect(daemon) for _ in range(4)]
    for peer in peers:
        peer.associate()
    assert sum(worker["associations"] for worker in daemon.status()["workers"]) == 4
    for _ in range(2):
        fifth = connect(daemon)
        fifth.send(associate_rq())
        assert fifth.read_rejection() == (2, 3, 2)
        fifth.sock.close()
    peers.pop().release()
    again = connect(daemon)
    again.associate()
    victim = max(daemon.status()["workers"], key=lambda worker: worker["associations"])
    os.kill(victim["pid"], signal.SIGKILL)
    daemon.wait_logged("worker died")
    for _ in range(victim["associations"]):
        connect(daemon).associate()
    fifth = connect(daemon)
    fifth.send(associate_rq())
    assert fifth.read_rejection() == (2, 3, 2)


def test_the_limit_of_connections_holds_across_workers(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd=TWO, limits={"connections": 4})
    peers = [connect(daemon) for _ in range(4)]
    for peer in peers:
        peer.associate()
    connect(daemon).read_end()
    peers.pop().release()
    wait_until(daemon.connections, equals=3)
    connect(daemon).associate()


def test_sigterm_drains_all_workers(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd=TWO)
    sent = [instance(size=200_000) for _ in range(4)]
    peers = [connect(daemon) for _ in sent]
    for peer, each in zip(peers, sent, strict=True):
        peer.associate()
        peer.send(store_message(each)[:50_000])
    assert sum(worker["associations"] for worker in daemon.status()["workers"]) == 4
    daemon.signal(signal.SIGTERM)
    daemon.wait_logged("stopping", associations=4)
    for peer, each in zip(peers, sent, strict=True):
        peer.send(store_message(each)[50_000:])
        assert peer.read_message().status == 0
        peer.release()
    assert daemon.wait() == 0
    assert {file.data_set for file in daemon.stored()} == {each.data_set for each in sent}
    assert not any(exists(pid) for pid in daemon.pids())


def test_workers_that_never_start_end_the_daemon_with_a_sentence(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """For example if a library crashes in each worker."""
    daemon = Daemon(tmp_path, {"dicomd": TWO})
    sabotage = "import os; from dicomd.supervisor import process_manager as m; m.run_worker = lambda *_: os._exit(3)"
    done = failed_start(daemon.config_path, sabotage=sabotage)
    assert done.returncode == 1
    assert "workers die before they are ready: exit status 3" in done.stderr


def test_no_descriptor_of_the_supervisor_reaches_a_child(start_daemon: StartDaemon) -> None:
    """Otherwise a stop, a death or a signal could be noticed by the wrong process, or by none."""
    daemon = start_daemon(dicomd={"workers": 3})
    victim = min(daemon.worker_pids())
    os.kill(victim, signal.SIGKILL)
    daemon.wait_logged("worker died")
    wait_until(lambda: victim not in (found := daemon.worker_pids()) and list(found.values()).count("ready") == 3)

    def opened(pid: int, kind: str) -> set[str]:
        return {target for target in descriptors(pid).values() if target.startswith(kind)}

    supervisor = opened(daemon.pid, "socket:")
    shared = [opened(pid, "socket:") & supervisor for pid in daemon.pids()[1:]]
    listening = 1  # each has only the listening socket that it serves
    assert [len(each) for each in shared] == [listening] * 4
    private = [opened(pid, "pipe:") & opened(daemon.pid, "pipe:") for pid in daemon.pids()[1:]]
    assert all(len(each) <= 2 for each in private)  # stdout and stderr
