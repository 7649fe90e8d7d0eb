"""PROXY headers of version 2 as a load balancer sends them, built by hand from haproxy's doc/proxy-protocol.txt §2.2.

Invariant: nothing here comes from dicomd.
"""

from __future__ import annotations

import socket
import struct

LOCAL, PROXY = 0x20, 0x21
"""Version 2 and the command."""
TCP4, TCP6 = 0x11, 0x21
"""Family and protocol."""

_SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")


def header(body: bytes, *, command: int = PROXY, family: int = TCP4) -> bytes:
    """A header with these bytes after its first 16."""
    return _SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


def ipv4(address: str) -> bytes:
    """Addresses and ports of a connection from `address`."""
    return socket.inet_aton(address) + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 40000, 104)


def ipv6(address: str) -> bytes:
    """Addresses and ports of a connection from `address`."""
    return socket.inet_pton(socket.AF_INET6, address) + bytes(16) + struct.pack(">HH", 40000, 104)
