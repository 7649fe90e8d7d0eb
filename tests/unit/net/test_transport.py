"""The time limits of the transport, on a real socket pair over loopback."""

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dicomd.net import deadlines
from dicomd.net.deadlines import Deadline, TimedOutError, TimeLimits
from dicomd.net.transport import ConnectionLostError, PlainTransport, WokenError, prepare_listening

Pair = tuple[PlainTransport, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        accepted, _ = server.accept()
        transport = PlainTransport(accepted, send_timeout=0.2)
        yield transport, peer
        transport.close()


def buffer(size: int = 100) -> memoryview:
    return memoryview(bytearray(size))


def test_reads_what_was_sent(pair: Pair) -> None:
    transport, peer = pair
    peer.sendall(b"hello")
    space = buffer()
    assert transport.receive_into(space, acknowledge=True) == 5
    assert bytes(space[:5]) == b"hello"


def test_a_read_ends_at_its_limit_and_the_connection_goes_on(pair: Pair) -> None:
    transport, peer = pair
    transport.limit_receive(0.05)
    with pytest.raises(TimeoutError):
        transport.receive_into(buffer(), acknowledge=False)
    transport.send(b"still there")
    assert peer.recv(100) == b"still there"


def test_a_read_of_the_whole_waits_for_all_of_it(pair: Pair) -> None:
    transport, peer = pair
    transport.limit_receive(20)
    space = buffer(200_000)
    sending = threading.Thread(target=lambda: [peer.sendall(bytes(50_000)) for _ in range(5)])
    sending.start()
    assert transport.receive_into(space, acknowledge=True, whole=True) == 200_000
    assert transport.receive_into(space[:50_000], acknowledge=True, whole=True) == 50_000
    sending.join()


def test_it_ends_at_the_limit_and_at_the_end_of_the_connection_with_what_has_come(pair: Pair) -> None:
    transport, peer = pair
    transport.limit_receive(0.05)
    peer.sendall(b"some")
    assert transport.receive_into(buffer(), acknowledge=True, whole=True) == 4
    with pytest.raises(TimeoutError):
        transport.receive_into(buffer(), acknowledge=True, whole=True)
    transport.limit_receive(20)
    peer.sendall(b"more")
    peer.shutdown(socket.SHUT_WR)
    assert transport.receive_into(buffer(), acknowledge=True, whole=True) == 4
    with pytest.raises(ConnectionLostError):
        transport.receive_into(buffer(), acknowledge=True, whole=True)


def test_wake_ends_it_too(pair: Pair) -> None:
    transport, peer = pair
    peer.sendall(b"some")
    waking = threading.Timer(0.05, transport.wake, ("enough",))
    waking.start()
    assert transport.receive_into(buffer(), acknowledge=True, whole=True) == 4
    with pytest.raises(WokenError, match="enough"):
        transport.receive_into(buffer(), acknowledge=True, whole=True)
    waking.join()


def test_a_closed_connection_is_lost(pair: Pair) -> None:
    transport, peer = pair
    peer.close()
    with pytest.raises(ConnectionLostError):
        transport.receive_into(buffer(), acknowledge=True)


def test_wake_ends_a_read_with_its_reason_and_leaves_sending_possible(pair: Pair) -> None:
    transport, peer = pair
    transport.wake("enough")
    with pytest.raises(WokenError, match="enough"):
        transport.receive_into(buffer(), acknowledge=False)
    transport.send(b"bye")
    assert peer.recv(100) == b"bye"


def test_another_thread_ends_a_read_with_any_error(pair: Pair) -> None:
    transport, peer = pair
    transport.interrupt(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        transport.receive_into(buffer(), acknowledge=False)
    transport.send(b"bye")
    assert peer.recv(100) == b"bye"


def test_after_a_loss_that_another_thread_has_met_nothing_is_sent(pair: Pair) -> None:
    transport, _ = pair
    transport.interrupt(ConnectionLostError("does not read", "send_timeout"))
    with pytest.raises(ConnectionLostError, match="does not read") as lost:
        transport.receive_into(buffer(), acknowledge=False)
    assert lost.value.limit == "send_timeout"
    with pytest.raises(ConnectionLostError, match="pipe"):
        transport.send(b"more")


def test_a_peer_that_does_not_read_is_lost(pair: Pair) -> None:
    transport, _ = pair
    with pytest.raises(ConnectionLostError, match="does not read"):
        for _ in range(1000):
            transport.send(bytes(1 << 20))


def test_a_closed_transport_is_lost_not_broken(pair: Pair) -> None:
    transport, _ = pair
    transport.close()
    transport.wake("enough")
    with pytest.raises(ConnectionLostError):
        transport.send(b"x")
    with pytest.raises(ConnectionLostError):
        transport.limit_receive(1.0)


def test_a_connection_inherits_what_the_listening_socket_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        early = socket.create_connection(server.getsockname())
        wait_for_connection(server)
        prepare_listening(server, 3.0)
        late = socket.create_connection(server.getsockname())
        with early, late:
            for sent, limit in ((3.0, 0.0), (3.0, 3.0)):
                accepted, _ = server.accept()
                with accepted:
                    assert PlainTransport(accepted, send_timeout=sent).receive_timeout == limit
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    for option, seconds in ((socket.SO_SNDTIMEO, sent), (socket.SO_RCVTIMEO, limit)):
                        found = accepted.getsockopt(socket.SOL_SOCKET, option, 16)
                        assert struct.unpack("@ll", found) == (int(seconds), 0)


def test_other_limits_than_the_inherited_ones_are_set() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        prepare_listening(server, 3.0)
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            with accepted:
                transport = PlainTransport(accepted, send_timeout=2.0)
                assert transport.receive_timeout == 0.0
                transport.limit_receive(0.05)
                with pytest.raises(TimeoutError):
                    transport.receive_into(buffer(), acknowledge=False)
                assert struct.unpack("@ll", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)) == (2, 0)


class Joined(socket.socket):
    """A listening socket to which somebody connects after each option that is set."""

    peers: list[socket.socket]

    def setsockopt(self, *arguments: Any) -> None:
        super().setsockopt(*arguments)
        self.peers.append(socket.create_connection(self.getsockname()))


def test_a_connection_that_comes_while_another_generation_prepares_the_socket_has_a_limit_that_is_known() -> None:
    with Joined(socket.AF_INET) as server, ExitStack() as peers:
        server.peers = []
        server.bind(("127.0.0.1", 0))
        server.listen()
        prepare_listening(server, 3.0)
        prepare_listening(server, 60.0)
        for peer in server.peers:
            peers.enter_context(peer)
            accepted, _ = server.accept()
            with accepted:
                transport = PlainTransport(accepted, send_timeout=3.0)
                found = struct.unpack("@ll", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
                assert transport.receive_timeout == 0.0 or found == (int(transport.receive_timeout), 0)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def wait_for_connection(server: socket.socket) -> None:
    poller = select.poll()
    poller.register(server, select.POLLIN)
    assert poller.poll(10_000)


def receive(transport: PlainTransport, deadline: Deadline) -> int:
    while True:
        deadline.before_receive()
        try:
            count = transport.receive_into(buffer(), acknowledge=True)
        except TimeoutError:
            deadline.elapsed()
            continue
        deadline.received(count)
        return count


def test_no_trickle_extends_artim(pair: Pair) -> None:
    transport, peer = pair
    began = time.monotonic()
    deadline = Deadline(transport, TimeLimits(request=0.2))
    with pytest.raises(TimedOutError, match="within"):
        while True:
            peer.sendall(b"x")
            receive(transport, deadline)
    assert time.monotonic() - began >= 0.2


def test_idle_is_limited(pair: Pair) -> None:
    transport, _ = pair
    deadline = Deadline(transport, TimeLimits(idle=0.05))
    deadline.between_messages()
    with pytest.raises(TimedOutError, match="idle"):
        receive(transport, deadline)


def test_a_pause_ends_before_idle_does(pair: Pair) -> None:
    transport, peer = pair
    deadline = Deadline(transport, TimeLimits(window=0.1, idle=2.0))  # far apart: a busy machine may be late
    began = time.monotonic()
    deadline.between_messages(pausing=True)
    with pytest.raises(TimeoutError):
        transport.receive_into(buffer(), acknowledge=False)
    assert time.monotonic() - began < 2.0
    deadline.elapsed()
    with pytest.raises(TimedOutError, match=r"idle for 2 s"):
        receive(transport, deadline)
    assert time.monotonic() - began >= 2.0
    peer.sendall(b"x")
    assert receive(transport, deadline) == 1


def test_after_a_pause_the_whole_of_idle_counts_again(pair: Pair) -> None:
    transport, _ = pair
    deadline = Deadline(transport, TimeLimits(window=0.2, idle=2.0))
    deadline.between_messages(pausing=True)
    with pytest.raises(TimeoutError):
        transport.receive_into(buffer(), acknowledge=False)
    deadline.elapsed()
    began = time.monotonic()
    deadline.between_messages()
    with pytest.raises(TimedOutError, match="idle"):
        receive(transport, deadline)
    assert time.monotonic() - began >= 2.0


def test_a_shorter_limit_that_is_kept_shortens_no_wait(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "_SHORTEST_TICK", 0.1)
    transport, _ = pair
    deadline = Deadline(transport, TimeLimits(request=0.2, idle=0.25))
    for begin, seconds, why in (
        (deadline.between_messages, 0.25, "idle for 0.25 s"),
        (deadline.start_artim, 0.2, r"nothing complete within 0.2 s"),
        (deadline.between_messages, 0.25, "idle for 0.25 s"),
    ):
        transport.limit_receive(0.1)
        began = time.monotonic()
        begin()
        assert transport.receive_timeout == 0.1
        with pytest.raises(TimedOutError, match=why):
            receive(transport, deadline)
        assert time.monotonic() - began >= seconds


def test_a_pause_is_noticed_without_a_minimum_rate_too(pair: Pair) -> None:
    transport, _ = pair
    deadline = Deadline(transport, TimeLimits(minimum_rate=0, window=0.2, idle=20))
    deadline.in_message()
    deadline.between_messages(pausing=True)
    with pytest.raises(TimeoutError):
        transport.receive_into(buffer(), acknowledge=False)
    deadline.elapsed()


def test_a_stall_in_a_message_is_noticed(pair: Pair) -> None:
    transport, peer = pair
    deadline = Deadline(transport, TimeLimits(minimum_rate=1.0, window=0.2, idle=60))
    deadline.in_message()
    peer.sendall(b"x")
    with pytest.raises(TimedOutError, match="in the middle of a message"):
        while True:
            receive(transport, deadline)


def test_who_keeps_the_minimum_rate_may_go_on(pair: Pair) -> None:
    transport, peer = pair
    deadline = Deadline(transport, TimeLimits(minimum_rate=10.0, window=0.05))
    deadline.in_message()
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        peer.sendall(b"x" * 10)
        receive(transport, deadline)


@pytest.mark.parametrize("slow", ["the peer", "the disk here"])
def test_only_waiting_for_the_peer_counts(pair: Pair, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    transport, _ = pair
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    deadline = Deadline(transport, TimeLimits(minimum_rate=1000.0, window=30.0))
    deadline.in_message()
    deadline.before_receive()
    deadline.received(1)
    if slow == "the disk here":  # between one read and the next
        now = 3600.0
        deadline.before_receive()
        deadline.received(1)
    else:
        deadline.before_receive()
        now = 3600.0
        with pytest.raises(TimedOutError, match="in the middle of a message"):
            deadline.received(1)


def test_without_a_minimum_rate_a_stall_is_as_long_as_idle(pair: Pair) -> None:
    transport, _ = pair
    deadline = Deadline(transport, TimeLimits(minimum_rate=0, idle=0.05))
    deadline.in_message()
    with pytest.raises(TimedOutError, match="idle"):
        receive(transport, deadline)
