"""The parser of PROXY headers with any bytes: it yields an address, the balancer itself, or a refusal."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomd.net.deadlines import TimedOutError
from dicomd.net.proxy import HEAD, SIGNATURE, ProxyHeaderError, announced, peer_address, receive_header
from dicomd.net.transport import ConnectionLostError, PlainTransport
from tests.support.proxy import LOCAL, PROXY, TCP4, TCP6, header, ipv4, ipv6

BEHIND = b"\x01\0what follows"


def received(data: bytes, *, pieces: int = 1 << 20, within: float = 20.0) -> tuple[str | None, bytes]:
    """The address from the header in `data`, and the bytes after it that were left unread."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        accepted, _ = server.accept()
        with accepted:
            transport = PlainTransport(accepted, send_timeout=1)
            for at in range(0, len(data), pieces):
                peer.sendall(data[at : at + pieces])
            peer.shutdown(socket.SHUT_WR)
            found = receive_header(transport, within)
            return found, b"".join(iter(lambda: accepted.recv(1 << 16), b""))


def parsed(data: bytes) -> str | None:
    length = announced(data[:HEAD])
    return peer_address(data[:HEAD], data[HEAD : HEAD + length])


@given(st.ip_addresses(v=4), st.binary(max_size=300), st.integers(1, 400))
def test_an_ipv4_address_is_read_and_nothing_behind_the_header(
    address: ipaddress.IPv4Address, extensions: bytes, pieces: int
) -> None:
    data = header(ipv4(str(address)) + extensions)
    assert received(data + BEHIND, pieces=pieces) == (str(address), BEHIND)


@given(st.ip_addresses(v=6), st.binary(max_size=300))
def test_an_ipv6_address_is_read_as_people_write_it(address: ipaddress.IPv6Address, extensions: bytes) -> None:
    data = header(ipv6(str(address)) + extensions, family=TCP6)
    mapped = address.ipv4_mapped
    assert received(data + BEHIND) == (str(mapped or address), BEHIND)


def test_an_ipv4_address_in_ipv6_is_that_address() -> None:
    assert parsed(header(ipv6("::ffff:10.1.2.3"), family=TCP6)) == "10.1.2.3"


@given(st.integers(0, 255), st.binary(max_size=300))
def test_local_is_the_balancer_whatever_else_it_says(family: int, body: bytes) -> None:
    assert received(header(body, command=LOCAL, family=family) + BEHIND) == (None, BEHIND)


def test_the_longest_header_is_read_to_its_end() -> None:
    body = ipv4("10.1.2.3")
    assert received(header(body + bytes(65535 - len(body))) + BEHIND) == ("10.1.2.3", BEHIND)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x01\0\0\0\0\xcd\0\1\0\0DICOMD", "no PROXY header"),
        (b"PROXY TCP4 10.1.2.3 10.1.2.4 1 2\r\n", "version 1: have the balancer send version 2"),
        (b"\x16\x03\x01" + bytes(200), "no PROXY header"),
        (header(ipv4("10.1.2.3"), command=0x11), "of version 1, not 2"),
        (header(ipv4("10.1.2.3"), command=0x2F), "unknown command 15"),
        (header(ipv4("10.1.2.3"), family=0), "something other than TCP"),
        (header(ipv4("10.1.2.3"), family=0x12), "something other than TCP"),
        (header(bytes(216), family=0x31), "something other than TCP"),
        (header(ipv4("10.1.2.3")[:-1]), "shorter than its addresses"),
        (header(ipv4("10.1.2.3"), family=TCP6), "shorter than its addresses"),
    ],
)
def test_what_is_no_header_to_go_by_is_refused_with_a_word(data: bytes, said: str) -> None:
    with pytest.raises(ProxyHeaderError, match=said):
        received(data + BEHIND)


def test_a_header_that_is_cut_short_is_a_lost_connection_and_one_that_stays_away_is_timed_out() -> None:
    whole = header(ipv4("10.1.2.3"))
    for length in range(len(whole)):
        with pytest.raises(ConnectionLostError):
            received(whole[:length])
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        accepted, _ = server.accept()
        with accepted:
            peer.sendall(whole[:-1])
            with pytest.raises(TimedOutError, match=r"no complete PROXY header within 0\.2 s"):
                receive_header(PlainTransport(accepted, send_timeout=1), 0.2)


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: SIGNATURE + rest))
def test_any_bytes_lead_to_an_address_to_the_balancer_or_to_a_refusal(data: bytes) -> None:
    try:
        found = parsed(data)
    except ProxyHeaderError:
        return
    assert data.startswith(SIGNATURE)
    if found is None:
        assert data[12] == LOCAL
    else:
        assert data[12] == PROXY
        assert data[13] in (TCP4, TCP6)
        ipaddress.ip_address(found)
