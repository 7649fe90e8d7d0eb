"""What is one host among the source addresses of connections."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

_SUBNET_BITS: Final = 64  # of an IPv6 address: who has one of a subnet has all of them (RFC 4291 §2.5.1)


def host_of(address: str) -> str:
    """What stands for the host: an IPv4 address, or the /64 of an IPv6 address; any other text is itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return f"{int(parsed) >> _SUBNET_BITS:x}::/64"
