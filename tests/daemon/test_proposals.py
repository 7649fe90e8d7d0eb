"""The most expensive proposals that are permitted: their cost to others, and the memory they hold (docs/limits.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.encoding import item, p_data, pdu, pdu_header, pdv
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, VERIFICATION, instance
from tests.support.raw_peer import RawPeer, associate_rq, c_echo_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

OF_A_HOST = 4
"""Large requests of one host that a worker reads at the same time."""
CONNECTIONS = 60
KIB_OF_AN_ASSOCIATION = 100


def large_request(abstract_syntax: str, number: int = 0) -> bytes:
    """The contexts of an ordinary request, and 120 more with 128 Transfer Syntaxes each, all lists different."""
    contexts = [
        item(
            0x20,
            bytes((2 * context + 11, 0, 0, 0))
            + item(0x30, abstract_syntax.encode())
            + b"".join(item(0x40, f"1.2.{number}.{context}.{syntax}".encode()) for syntax in range(128)),
        )
        for context in range(120)
    ]
    usual = associate_rq([(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (VERIFICATION, [EXPLICIT_LITTLE])])
    return pdu(wire.A_ASSOCIATE_RQ, usual[6:] + b"".join(contexts))


def resident_kib(daemon: Daemon) -> int:
    """The resident memory of the workers in KiB."""
    found = 0
    for pid in daemon.worker_pids():
        with Path(f"/proc/{pid}/status").open() as status:
            found += next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return found


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    with ExitStack() as open_ones:
        yield open_ones


def test_a_host_has_four_large_requests_read_at_once_and_others_are_served(
    start_daemon: StartDaemon, peers: ExitStack
) -> None:
    daemon = start_daemon(dicomd={"workers": 1}, limits={"request_timeout": "4s"})
    request = large_request(CT_IMAGE_STORAGE)

    def come(source: str) -> RawPeer:
        return peers.enter_context(RawPeer(daemon.address, source=source))

    holding = [come("127.0.0.2") for _ in range(OF_A_HOST)]
    for peer in holding:
        peer.send(request[: len(request) // 2])
    late = come("127.0.0.2")
    late.send(request)
    for _ in range(3):
        other = come("127.0.0.3")
        other.send(request)
        assert other.read_pdu().type == wire.A_ASSOCIATE_AC
        other.release()
    small = come("127.0.0.2")
    small.associate()
    assert small.store(instance()).status == 0
    small.release()
    for peer in holding:
        peer.send(request[len(request) // 2 :])
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
    assert late.read_pdu().type == wire.A_ASSOCIATE_AC


def unread(peer: RawPeer) -> int:
    """Bytes that this peer has sent and the daemon hasn't read yet, wherever the kernel holds them (proc_net(5))."""
    port, daemon_port = peer.sock.getsockname()[1], peer.sock.getpeername()[1]
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ports = int(local.split(":")[1], 16), int(remote.split(":")[1], 16)
        sending, receiving = (int(queue, 16) for queue in queues.split(":"))
        if ports == (port, daemon_port):
            found += sending
        elif ports == (daemon_port, port):
            found += receiving
    return found


def test_who_waits_in_vain_is_closed_and_counted(start_daemon: StartDaemon, peers: ExitStack) -> None:
    """Who waits has connected first, so that its time is over before the others return what it waits for."""
    daemon = start_daemon(dicomd={"workers": 1}, limits={"request_timeout": "4s"})
    half = large_request(CT_IMAGE_STORAGE)[:100_000]
    waiting = peers.enter_context(RawPeer(daemon.address))
    holding = [peers.enter_context(RawPeer(daemon.address)) for _ in range(OF_A_HOST)]
    for peer in holding:
        peer.send(half)
    wait_until(lambda: not any(map(unread, holding)), what="not all of them are being read")
    waiting.send(half)
    daemon.wait_metric("dicomd_limit_hits_total", OF_A_HOST, limit="request_timeout")
    daemon.wait_metric("dicomd_limit_hits_total", 1, limit="large_requests")


@pytest.mark.timeout(240)
def test_an_idle_association_holds_little_whatever_it_has_proposed_and_sent(
    start_daemon: StartDaemon, peers: ExitStack
) -> None:
    """All contexts but two refused, a Command Set of 64 KiB, and then the beginning of an unexpected request."""
    daemon = start_daemon(dicomd={"workers": 1}, limits={"associations_per_peer": 2 * CONNECTIONS})
    elements = b"".join(struct.pack("<HHI", 0, 0x2000 + number, 0) for number in range(8000))
    command = c_echo_rq() + elements
    command = struct.pack("<HHII", 0, 0, 4, len(command) - 12) + command[12:]

    def come(number: int) -> None:
        peer = peers.enter_context(RawPeer(daemon.address, source=f"127.0.0.{2 + number % 8}"))
        peer.send(large_request(CT_IMAGE_STORAGE, number))
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
        for at in range(0, len(command), 16000):
            last = 2 * (at + 16000 >= len(command))
            peer.send(p_data(pdv(3, 1 + last, command[at : at + 16000])))
        assert peer.read_pdu().type == wire.P_DATA_TF

    for number in range(8):  # memory allocated on first use remains
        come(number)
    before = resident_kib(daemon)
    for number in range(CONNECTIONS):
        come(8 + number)
    each = (resident_kib(daemon) - before) / CONNECTIONS
    assert daemon.connections() == CONNECTIONS + 8
    assert each <= KIB_OF_AN_ASSOCIATION


def test_of_a_request_out_of_place_nothing_is_held(start_daemon: StartDaemon, connect: Connect) -> None:
    """It is aborted at its header: otherwise a dripped one would be held as long as it keeps the minimum rate."""
    daemon = start_daemon()
    peer = connect(daemon)
    peer.associate()
    peer.send(pdu_header(wire.A_ASSOCIATE_RQ, 256 * 1024))
    abort = peer.read_abort()
    assert (abort.source, abort.reason) == (2, 2)
