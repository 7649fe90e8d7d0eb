"""A peer may be slow, but not forever: ARTIM, the idle limit and the minimum rate (CONTRACT 3, PS3.8 §9.1.5)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.encoding import p_data, pdu, pdv
from tests.support.objects import instance
from tests.support.raw_peer import A_RELEASE_RQ_PDU, Abort, RawPeer, associate_rq, c_echo_rq, c_store_rq, store_message

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

LIMIT = 2.0
"""Each limit in these tests, in seconds."""
SLACK = 10.0
"""Seconds that a busy machine may be late."""
SERVICE_USER = Abort(0, 0)


@contextmanager
def takes_the_limit() -> Iterator[None]:
    """Assert that the block, in which the limit begins and ends, takes as long as that, and not much longer."""
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    assert LIMIT <= seconds <= LIMIT + SLACK


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """A daemon with short limits. Without a minimum rate the idle limit also holds within objects."""
    return start_daemon(
        limits={"request_timeout": f"{LIMIT}s", "association_idle": f"{LIMIT}s", "minimum_rate": "0B/s"}
    )


def test_artim_ends_each_wait_outside_of_an_association_with_a_bare_close(daemon: Daemon, connect: Connect) -> None:
    with takes_the_limit():
        silent, cut_off = connect(daemon), connect(daemon)
        cut_off.send(associate_rq()[:50])
        silent.read_end()
        cut_off.read_end()
    with takes_the_limit():
        rejected, released, aborted = (connect(daemon) for _ in range(3))
        rejected.send(associate_rq(application_context="1.2.3"))
        rejected.read_rejection()
        aborted.send(pdu(0x42))
        assert aborted.read_pdu().type == wire.A_ABORT
        released.associate()
        released.send(A_RELEASE_RQ_PDU)
        assert released.read_pdu().type == wire.A_RELEASE_RP
        for peer in (rejected, released, aborted):
            peer.read_end()


def test_artim_is_not_extended_by_a_trickle(daemon: Daemon, connect: Connect) -> None:
    began = time.monotonic()
    peer = connect(daemon)
    try:
        for byte in associate_rq():
            peer.send(bytes([byte]))
            time.sleep(0.1)  # the trickle itself
    except OSError:
        pass
    assert LIMIT <= time.monotonic() - began <= LIMIT + SLACK


def test_an_idle_association_is_aborted(daemon: Daemon, connect: Connect) -> None:
    peer = connect(daemon)
    peer.associate()
    with takes_the_limit():
        assert peer.store(instance()).status == 0
        assert peer.read_abort() == SERVICE_USER
    assert daemon.wait_logged("association ended")["outcome"] == "timed_out"
    daemon.wait_metric("dicomd_associations_total", 1, listener="dicom", outcome="timed_out")


def test_each_pdu_starts_the_idle_limit_anew(daemon: Daemon, connect: Connect) -> None:
    peer = connect(daemon)
    peer.associate()
    for _ in range(6):
        time.sleep(LIMIT / 3)  # the peer's own pauses
        assert peer.echo().status == 0
    peer.release()


@pytest.mark.parametrize("where", ["a PDU header", "a PDV", "between two PDUs", "a command"])
def test_silence_in_the_middle_of_an_object_is_aborted_and_leaves_nothing(
    daemon: Daemon, connect: Connect, where: str
) -> None:
    unfinished = instance(size=50_000)
    message = store_message(unfinished)
    command = p_data(pdv(1, 3, c_store_rq(unfinished)))
    sent = {
        "a PDU header": message[: len(command) + 16_012 + 3],
        "a PDV": message[: len(command) + 20_000],
        "between two PDUs": message[: len(command) + 16_012],
        "a command": p_data(pdv(1, 1, c_store_rq(unfinished)[:40])),
    }[where]
    peer = connect(daemon)
    peer.associate()
    with takes_the_limit():
        peer.send(sent)
        assert peer.read_abort() == SERVICE_USER
    daemon.wait_no_temporary_files()
    assert daemon.paths() == []


def test_others_go_on_meanwhile(daemon: Daemon, connect: Connect) -> None:
    silent = [connect(daemon) for _ in range(10)]
    peer = connect(daemon)
    peer.associate()
    ends = time.monotonic() + LIMIT + 0.5
    count = 0
    while time.monotonic() < ends:
        assert peer.store(instance()).status == 0
        count += 1
    peer.release()
    for each in silent:
        each.read_end()
    assert len(daemon.paths()) == count


def test_a_peer_that_never_reads_is_got_rid_of(daemon: Daemon) -> None:
    """Its answers fill the kernel's buffers; then the daemon gives up on it and keeps nothing of it."""
    with RawPeer(daemon.address, receive_buffer=4096) as peer:
        peer.associate()
        echoes = p_data(pdv(3, 3, c_echo_rq())) * 500
        peer.sock.settimeout(LIMIT + SLACK)
        with pytest.raises(ConnectionError):  # a TimeoutError would mean that the daemon neither reads nor gives up
            peer.send_for_ever(echoes)
    daemon.wait_logged("association ended")
    daemon.wait_metric("dicomd_limit_hits_total", 1, limit="send_timeout")


@pytest.mark.timeout(120)
def test_a_drip_in_the_middle_of_an_object_is_aborted_and_a_slow_peer_is_not(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    """Takes 30 s because the rate is averaged over 30 s (CONTRACT 3)."""
    daemon = start_daemon(
        limits={"minimum_rate": "1KiB/s", "request_timeout": f"{LIMIT}s", "association_idle": f"{LIMIT}s"}
    )
    dripping, slow, bursty = (connect(daemon) for _ in range(3))
    unfinished, finished, burst = instance(size=200_000), instance(size=80_000), instance(size=120_000)
    for peer in (dripping, slow, bursty):
        peer.associate()
    drip, flow, bursts = (store_message(one, fragment=500) for one in (unfinished, finished, burst))
    dripping.send(drip[:200])
    slow.send(flow[:200])
    bursty.send(bursts[:200])
    drip, flow, bursts = drip[200:], flow[200:], bursts[200:]
    began = time.monotonic()
    dripping.sock.setblocking(False)
    abort = b""
    while not abort:
        assert time.monotonic() - began < 60, "the dripping peer is not aborted"
        slow.send(flow[:600])  # 2.4 KB/s
        dripping.sock.send(drip[:60])  # 240 B/s
        if int((time.monotonic() - began) * 4) % 40 == 0:
            bursty.send(bursts[:25_000])
            bursts = bursts[25_000:]
        drip, flow = drip[60:], flow[600:]
        time.sleep(0.25)
        try:
            abort = dripping.sock.recv(100)
        except BlockingIOError:
            continue
    seconds = time.monotonic() - began
    assert abort == bytes.fromhex("07000000000400000000")
    assert 25 <= seconds <= 30 + 8 + SLACK
    slow.send(flow)
    assert slow.read_message().status == 0
    bursty.send(bursts)
    assert bursty.read_message().status == 0
    for peer in (slow, bursty):
        peer.release()
    dripping.sock.close()
    assert {file.sop_instance_uid for file in daemon.stored()} == {finished.sop_instance_uid, burst.sop_instance_uid}
    daemon.wait_logged("association ended", outcome="timed_out")


def test_a_long_pause_between_objects_is_shorter_than_the_idle_limit(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    """The request time-out only holds for the request; an open Association has its own limit."""
    daemon = start_daemon(limits={"request_timeout": f"{LIMIT}s", "association_idle": "60s"})
    peer = connect(daemon)
    peer.associate()
    peer.sock.settimeout(LIMIT * 2)
    with pytest.raises(TimeoutError):
        peer.sock.recv(1)
    assert peer.store(instance()).status == 0
    peer.release()
