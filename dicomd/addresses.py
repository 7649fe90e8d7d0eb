"""Decides which source addresses of connections belong to one host."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Network, ip_address
from typing import Final

_SUBNET_BITS: Final = 64
_KNOWN: Final = 1024  # addresses whose host is remembered


@lru_cache(_KNOWN)
def host_of(address: str) -> str:
    """Return what identifies the host: an IPv4 address, or the /64 of an IPv6 address; any other text unchanged.

    Whoever has one address of an IPv6 subnet can use all of them (RFC 4291 §2.5.1, RFC 8981). An IPv4-mapped IPv6
    address is its IPv4 address.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed) >> _SUBNET_BITS << _SUBNET_BITS, _SUBNET_BITS)))
