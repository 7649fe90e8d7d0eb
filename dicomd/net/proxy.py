"""The PROXY protocol, version 2: tells which peer is behind a load balancer (haproxy's doc/proxy-protocol.txt, §2.2).

Invariant: exactly the header is read, 16 bytes and as many more as they announce, so that whatever follows, TLS or not,
is left untouched; a time limit that no trickle of bytes extends bounds the reading; and at most `_LONGEST_ADDRESSES`
bytes are kept. The listener decides whether the sender of the header is trusted.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from dicomd.net.access import AccessRules, Source, normal_address
from dicomd.net.deadlines import TimedOutError, TimeLimits
from dicomd.net.report import AssociationReport
from dicomd.net.transport import ConnectionLostError, PlainTransport

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
HEAD: Final = 16
"""Bytes of the fixed part, which announces the length of the rest."""
WITHIN: Final = 5.0
"""Seconds in which a balancer has to send the header; it normally does so in its first packet."""

_VERSION_2: Final = 0x20
_LOCAL = 0
_PROXY = 1
_TCP_OVER_IPV4 = 0x11
_TCP_OVER_IPV6 = 0x21
_ADDRESSES: Final = {_TCP_OVER_IPV4: 12, _TCP_OVER_IPV6: 36}
"""Bytes of addresses and ports in each family; they are followed by extensions that nothing here needs."""
_LONGEST_ADDRESSES: Final = max(_ADDRESSES.values())


class ProxyHeaderError(Exception):
    """There was no usable header; the message says what is wrong, and what would be right."""


def announced(head: bytes) -> int:
    """Return how many bytes follow the first 16 bytes of a header. Raises `ProxyHeaderError`."""
    if len(head) != HEAD or not head.startswith(SIGNATURE):
        if head.startswith(b"PROXY "):
            raise ProxyHeaderError("a PROXY header of version 1: have the balancer send version 2 (send-proxy-v2)")
        raise ProxyHeaderError("no PROXY header: have the balancer send one (send-proxy-v2)")
    if head[12] & 0xF0 != _VERSION_2:
        raise ProxyHeaderError(f"a PROXY header of version {head[12] >> 4}, not 2")
    return int.from_bytes(head[14:16], "big")


def peer_address(head: bytes, addresses: bytes) -> str | None:
    """Return the address behind the balancer, or None if the balancer itself is the peer (LOCAL).

    `head` is what `announced` has accepted, `addresses` the beginning of what follows. Raises `ProxyHeaderError`, also
    for a header without an address, since access rules couldn't be applied to the peer.
    """
    command = head[12] & 0x0F
    family = head[13]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise ProxyHeaderError(f"a PROXY header with the unknown command {command}")
    size = _ADDRESSES.get(family)
    if size is None:
        raise ProxyHeaderError(f"a PROXY header for something other than TCP over IPv4 or IPv6 ({family:02X}H)")
    if len(addresses) < size:
        raise ProxyHeaderError("a PROXY header that is shorter than its addresses")
    if family == _TCP_OVER_IPV4:
        return str(IPv4Address(addresses[:4]))
    return normal_address(str(IPv6Address(addresses[:16])))


def peer_behind(
    transport: PlainTransport, balancer: Source, limits: TimeLimits, rules: AccessRules, report: AssociationReport
) -> str:
    """Read the header and return the peer's address, which is judged as if the peer had connected directly.

    Returns the balancer's own address for its health checks. Raises what `receive_header` raises, and
    `ConnectionLostError` for a connection that is to be closed before negotiation, after reporting why.
    """
    transport.proxy_header_pending = False
    try:
        address = receive_header(transport, min(WITHIN, limits.request))
    except ProxyHeaderError as error:
        report.refused(str(error), rule="listen.proxy_protocol")
        raise ConnectionLostError(str(error)) from error
    if address is None:
        return balancer.address
    report.forwarded(address)
    if reason := rules.refuses_address(address):
        report.refused(reason, rule="peers.addresses")
        raise ConnectionLostError(reason)
    return address


def receive_header(transport: PlainTransport, within: float) -> str | None:
    """Read a header from a new connection, before any TLS, and return what `peer_address` returns.

    Raises `ProxyHeaderError`, `ConnectionLostError`, and `TimedOutError` if it isn't complete after `within` seconds.
    """
    ends = time.monotonic() + within
    head = _receive(transport, HEAD, ends, within)
    length = announced(head)
    addresses = _receive(transport, min(length, _LONGEST_ADDRESSES), ends, within)
    left = length - len(addresses)
    while left:
        left -= len(_receive(transport, min(left, 4096), ends, within))
    return peer_address(head, addresses)


def _receive(transport: PlainTransport, count: int, ends: float, within: float) -> bytes:
    """Receive exactly `count` bytes."""
    space = memoryview(bytearray(count))
    got = 0
    while got < count:
        left = ends - time.monotonic()
        if left <= 0:
            raise TimedOutError(f"no complete PROXY header within {within:g} s", "proxy_header")
        transport.limit_receive(left)
        try:
            # Bypass TLS: the header comes before it.
            got += PlainTransport.receive_into(transport, space[got:], acknowledge=True)
        except TimeoutError:
            continue
    return bytes(space)
