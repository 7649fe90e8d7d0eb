"""Scarce descriptors, several listeners and many short connections, which every operator meets sooner or later."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.processes import descriptors
from tests.support.raw_peer import RawPeer, associate_rq, store_message

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own


@contextmanager
def no_more_descriptors(daemon: Daemon) -> Iterator[None]:
    """Leave the daemon no free descriptors except those it needs to answer over HTTP."""
    before = {}
    for pid in daemon.worker_pids():
        used = descriptors(pid)
        lowest_free = next(number for number in range(len(used) + 1) if number not in used)
        before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[pid][1]))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_without_descriptors_an_instance_is_refused_and_the_next_is_taken(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    daemon = start_daemon()
    peer = connect(daemon)
    peer.associate()
    assert peer.store(instance()).status == 0
    with no_more_descriptors(daemon):
        refused = peer.store(instance())
        assert f"{refused.status:04X}" == "A703"
        assert 0 < len(refused.error_comment) <= 64
    assert peer.store(instance()).status == 0
    peer.release()
    assert len(daemon.stored()) == 2
    daemon.wait_metric("dicomd_dimse_responses_total", 1, command="C-STORE-RSP", status="A703")


def test_connections_that_come_without_descriptors_are_served_later(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    daemon = start_daemon()
    open_before = connect(daemon)
    open_before.associate()
    with no_more_descriptors(daemon):
        late = [connect(daemon) for _ in range(5)]
        for peer in late:
            peer.send(associate_rq())
        daemon.wait_logged("accept failed")
        assert open_before.echo().status == 0
    for peer in late:
        assert peer.read_pdu().type == 2
        peer.release()
    open_before.release()
    assert len(daemon.logged("accept failed")) < 100


def test_two_listeners_are_counted_apart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        listen=[{"name": "first", "address": "127.0.0.1:0"}, {"name": "second", "address": "127.0.0.1:0"}]
    )
    (started,) = daemon.logged("started")
    assert set(started["listeners"]) == {"first", "second"}
    for name, count in (("first", 1), ("second", 2)):
        host, _, port = started["listeners"][name].rpartition(":")
        for _ in range(count):
            with RawPeer((host, int(port))) as peer:
                peer.associate()
                assert peer.store(instance()).status == 0
                peer.release()
        daemon.wait_metric("dicomd_associations_total", count, listener=name, outcome="released")


def test_ipv6(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(listen=[{"name": "dicom", "address": "[::1]:0"}])
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()
    assert daemon.wait_logged("association ended")["dicom_peer_address"] == "::1"


def test_an_ipv4_peer_on_an_ipv6_socket_is_logged_as_ipv4(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(listen=[{"name": "dicom", "address": "[::]:0"}])
    with RawPeer(("127.0.0.1", daemon.port)) as peer:
        peer.associate()
        peer.release()
    assert daemon.wait_logged("association ended")["dicom_peer_address"] == "127.0.0.1"


def test_many_short_connections_leave_nothing_behind(start_daemon: StartDaemon) -> None:
    """Probes, scanners and resets in mid-object; the health check afterwards finds leaked descriptors and threads."""
    daemon = start_daemon()
    for number in range(150):
        with RawPeer(daemon.address) as peer:
            if number % 3 == 0:
                continue
            peer.associate()
            if number % 3 == 1:
                peer.send(store_message(instance(size=5000))[:3000])
                peer.reset()
            else:
                assert peer.store(instance()).status == 0
                peer.release()
    daemon.wait_metric("dicomd_associations_active", 0, listener="dicom")
    daemon.check_health()
    assert len(daemon.paths()) == 50
