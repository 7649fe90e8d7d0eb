"""The TLS transport on a real socket, and the messages about certificates and errors."""

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomd.net.tls import TlsFailedError, TlsSettings, TlsTransport, names, server_context
from dicomd.net.transport import ConnectionLostError, WokenError
from tests.support.certificates import Pki, requestor_context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki"))


class Requestor:
    """The other side, with TLS in memory, so that a test decides when which bytes are sent."""

    def __init__(self, address: tuple[str, int], trusted: Path) -> None:
        self.sock = socket.create_connection(address, timeout=20)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = requestor_context(trusted)
        self.tls = context.wrap_bio(self._arrived, self._leaving, server_hostname="dicomd.test")

    def encrypted(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._leaving.read()

    def shake_hands(self, piece: int) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(self._leaving.read(), piece)
                self._arrived.write(self.sock.recv(65536))
            else:
                self.send(self._leaving.read(), piece)
                return

    def send(self, data: bytes, piece: int) -> None:
        for at in range(0, len(data), piece):
            self.sock.sendall(data[at : at + piece])

    def read(self) -> bytes:
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                data = self.sock.recv(65536)
                assert data, "the connection ended without close_notify"
                self._arrived.write(data)


@contextmanager
def connected(pki: Pki, *, send_timeout: float) -> Iterator[tuple[TlsTransport, Requestor]]:
    context = server_context(TlsSettings(*pki.server))
    with socket.create_server(("127.0.0.1", 0)) as server:
        requestor = Requestor(server.getsockname(), pki.trusted)
        accepted, _ = server.accept()
    transport = TlsTransport(accepted, context, send_timeout=send_timeout)
    transport.limit_receive(20)
    yield transport, requestor
    transport.close()
    requestor.sock.close()


@pytest.fixture
def pair(pki: Pki) -> Iterator[tuple[TlsTransport, Requestor]]:
    with connected(pki, send_timeout=5) as both:
        yield both


def secured(pair: tuple[TlsTransport, Requestor], piece: int = 1 << 20) -> tuple[TlsTransport, Requestor]:
    transport, requestor = pair
    other = threading.Thread(target=requestor.shake_hands, args=(piece,))
    other.start()
    while not transport.secured:
        transport.shake_hands(memoryview(bytearray(16384)))
    other.join()
    return pair


def received(transport: TlsTransport, count: int, space: int) -> bytes:
    buffer, data = memoryview(bytearray(space)), b""
    while len(data) < count:
        data += bytes(buffer[: transport.receive_into(buffer, acknowledge=True)])
    return data


@pytest.mark.parametrize("space", [1, 100, 16384, 300_000])
def test_records_come_through_buffers_of_any_size(pair: tuple[TlsTransport, Requestor], space: int) -> None:
    transport, requestor = secured(pair)
    data = bytes(range(256)) * (2 if space == 1 else 400)
    requestor.send(requestor.encrypted(data), 1 << 20)
    assert received(transport, len(data), space) == data


def test_a_handshake_and_records_come_byte_by_byte(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair, piece=1)
    assert transport.session is not None
    assert transport.session.version == "TLSv1.3"
    requestor.send(requestor.encrypted(b"one") + requestor.encrypted(b"two"), 1)
    assert received(transport, 6, 100) == b"onetwo"


def test_part_of_a_record_is_nothing_yet(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair)
    record = requestor.encrypted(b"data")
    requestor.send(record[:7], 7)
    buffer = memoryview(bytearray(100))
    assert transport.receive_into(buffer, acknowledge=True) == 0
    requestor.send(record[7:], 100)
    assert transport.receive_into(buffer, acknowledge=True) == 4


def test_python_still_has_what_records_are_read_from(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, _ = secured(pair)
    below = getattr(transport._tls, "_sslobj", None)  # noqa: SLF001 - is what this module depends on
    version = ".".join(map(str, sys.version_info[:3]))
    assert hasattr(below, "read"), f"Python {version}'s ssl no longer has SSLSocket._sslobj.read: see dicomd/net/tls.py"
    assert transport._read == below.read  # noqa: SLF001 - is what this module depends on


def test_nothing_is_sent_before_the_handshake(pair: tuple[TlsTransport, Requestor]) -> None:
    with pytest.raises(ConnectionLostError, match="handshake is not done"):
        pair[0].send(b"in the clear")


def test_a_woken_transport_can_still_send(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair)
    transport.wake("enough")
    with pytest.raises(WokenError, match="enough"):
        transport.receive_into(memoryview(bytearray(100)), acknowledge=True)
    transport.send(b"farewell")
    assert requestor.read() == b"farewell"
    transport.close()
    assert requestor.read() == b"", "the connection ended without close_notify"


def test_a_handshake_can_be_woken(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, _ = pair
    threading.Timer(0.1, transport.wake, args=("enough",)).start()
    with pytest.raises(WokenError, match="enough"):
        transport.shake_hands(memoryview(bytearray(100)))


def test_an_end_without_close_notify_is_the_peers_and_an_answer_can_still_go(
    pair: tuple[TlsTransport, Requestor],
) -> None:
    transport, requestor = secured(pair)
    requestor.send(requestor.encrypted(b"last"), 100)
    requestor.sock.shutdown(socket.SHUT_WR)
    buffer = memoryview(bytearray(100))
    assert transport.receive_into(buffer, acknowledge=True) == 4
    with pytest.raises(ConnectionLostError, match="closed by the peer"):
        transport.receive_into(buffer, acknowledge=True)
    transport.send(b"answer")
    assert requestor.read() == b"answer"


def test_what_came_before_a_reset_counts(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair)
    transport.send(b"never read")
    requestor.send(requestor.encrypted(b"abort"), 100)
    requestor.sock.close()  # with unread bytes, so that the kernel sends a reset
    buffer = memoryview(bytearray(100))
    assert transport.receive_into(buffer, acknowledge=True) == 5
    with pytest.raises(ConnectionLostError):
        transport.receive_into(buffer, acknowledge=True)


def test_a_record_that_is_damaged_is_told_after_the_good_one_before_it(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair)
    good, bad = requestor.encrypted(b"good"), bytearray(requestor.encrypted(b"bad"))
    bad[-1] ^= 1
    requestor.send(good + bytes(bad), 1000)
    buffer = memoryview(bytearray(100))
    assert transport.receive_into(buffer, acknowledge=True) == 4
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=r"TLS: .*bad record mac"):
            transport.receive_into(buffer, acknowledge=True)


def test_an_end_within_the_handshake_is_the_peers(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = pair
    requestor.sock.sendall(b"\x16\x03\x01\x02\x00\x01")
    requestor.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLostError, match="closed by the peer"):
        for _ in range(3):
            transport.shake_hands(memoryview(bytearray(100)))
    assert transport.heard


def test_a_limit_may_be_longer_than_poll_can_wait(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair)
    transport.limit_receive(365 * 86400.0)
    threading.Timer(0.1, lambda: requestor.send(requestor.encrypted(b"x"), 100)).start()
    assert transport.receive_into(memoryview(bytearray(100)), acknowledge=True) == 1


def test_a_read_ends_at_its_limit_and_the_connection_goes_on(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = secured(pair)
    buffer = memoryview(bytearray(100))
    transport.limit_receive(0.05)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            transport.receive_into(buffer, acknowledge=True)
    requestor.send(requestor.encrypted(b"late"), 100)
    assert transport.receive_into(buffer, acknowledge=True) == 4


def test_a_peer_that_does_not_read_is_lost(pki: Pki) -> None:
    with connected(pki, send_timeout=0.2) as both:
        transport, _ = secured(both)
        began = time.monotonic()
        with pytest.raises(ConnectionLostError, match="does not read"):
            transport.send(bytes(50_000_000))
        assert time.monotonic() - began < 5


def test_what_is_no_tls_fails(pair: tuple[TlsTransport, Requestor]) -> None:
    transport, requestor = pair
    requestor.sock.sendall(b"\x01\x00\x00\x00\x00\xcd" + bytes(205))  # an A-ASSOCIATE-RQ
    requestor.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(TlsFailedError, match="may not speak TLS"):
        transport.shake_hands(memoryview(bytearray(16384)))


def test_a_common_name_counts_only_without_other_names() -> None:
    subject = ((("organizationName", "Hospital"),), (("commonName", "ct1"),))
    assert names({"subject": subject}) == ("ct1",)
    assert names({"subject": subject, "subjectAltName": (("email", "a@b"),)}) == ("ct1",)
    listed = (("DNS", "ct.example.org"), ("IP Address", "2001:DB8:0:0:0:0:0:1"), ("URI", "urn:ct"), ("DNS", "x"))
    assert names({"subject": subject, "subjectAltName": listed}) == ("ct.example.org", "2001:db8::1", "urn:ct", "x")
    assert names({}) == ()
