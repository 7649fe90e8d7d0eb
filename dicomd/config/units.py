"""Parses and formats quantities with units, and addresses.

Invariant: what a `format_` function writes, its `parse_` function reads back to an equal value. Durations are seconds,
sizes are bytes, rates are bytes per second; a bare number is in that unit. Every rejection is an `UnacceptableError`.
"""

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from dicomd.config.problems import UnacceptableError
from dicomd.formatting import format_address, shown

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_DURATION_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_SIZE_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1024 * GIB}
_DECIMAL_UNITS = {"kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)\s*", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)", re.ASCII)
_LONGEST = 400  # characters of a quantity: bounds the arithmetic, and leaves room for every float that may be written

MAXIMUM_DURATION = 365 * 86400.0  # socket and thread timeouts overflow far above
MAXIMUM_SIZE = 2**62  # below a signed 64-bit file offset, and exact as a float

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_duration(value: object) -> float:
    """Parse `"60s"`, `"1m30s"`, `"250ms"` or a number of seconds into seconds.

    Raises UnacceptableError for anything else, for negative durations and for those above 365 days.
    """
    expected = 'a duration such as "60s", "1m30s" or "250ms"'
    if isinstance(value, str):
        text = value.strip()
        matches = list(_DURATION.finditer(text)) if len(text) <= _LONGEST else []
        ends = [0, *(match.end() for match in matches)]
        if text == "0":
            return 0.0
        if not matches or ends[-1] != len(text) or any(m.start() != end for m, end in zip(matches, ends, strict=False)):
            raise UnacceptableError(f"{shown(value)} is not a duration", expected)
        sizes = [_DURATION_UNITS[match[2]] for match in matches]
        if any(first <= second for first, second in pairwise(sizes)):
            raise UnacceptableError(f"{shown(value)} has its units out of order", expected)
        seconds = float(sum(Decimal(match[1]) * unit for match, unit in zip(matches, sizes, strict=True)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) + 0.0 if abs(value) <= MAXIMUM_SIZE else -1.0  # + 0.0: no negative zero
    else:
        raise UnacceptableError(f"{shown(value)} is not a duration", expected)
    if not 0 <= seconds <= MAXIMUM_DURATION:
        raise UnacceptableError(f"{shown(value)} is out of range", "0s to 365d")
    return seconds


def format_duration(seconds: float) -> str:
    """Format in the shortest usual form: `60.0` becomes "60s", `7200.0` "2h", `0.25` "250ms"."""
    exact = Decimal(repr(float(seconds)))
    for unit, size in reversed(_DURATION_UNITS.items()):
        count = exact / size
        if count >= 2 and count == count.to_integral_value() and float(Decimal(int(count)) * size) == seconds:
            return f"{int(count)}{unit}"
    return f"{exact.normalize():f}s"


def parse_size(value: object) -> int:
    """Parse `"256KiB"`, `"1.5GiB"`, `"500MB"` or a number of bytes into bytes. Raises UnacceptableError."""
    expected = 'a size such as "256KiB", "8GiB" or a number of bytes'
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip()) if len(value) <= _LONGEST else None
        unit = _size_unit(match[2]) if match else None
        if match is None or unit is None:
            raise UnacceptableError(f"{shown(value)} is not a size", expected)
        exact = Decimal(match[1]) * unit
        if exact != exact.to_integral_value():
            raise UnacceptableError(f"{shown(value)} is not a whole number of bytes", expected)
        size = int(exact)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise UnacceptableError(f"{shown(value)} is not a size", expected)
    if not 0 <= size <= MAXIMUM_SIZE:
        raise UnacceptableError("the size is out of range", "at most 4194304TiB")
    return size


def _size_unit(name: str) -> int | None:
    if not name:
        return 1
    units = {**_SIZE_UNITS, **_DECIMAL_UNITS}
    lowered = {unit.lower(): size for unit, size in units.items()}
    return units.get(name, lowered.get(name.lower()))


def format_size(size: int) -> str:
    """Format in the largest binary unit that divides the size: `262144` becomes "256KiB"."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0B"


def parse_rate(value: object) -> float:
    """Parse `"1KiB/s"` or a number into bytes per second. Raises UnacceptableError."""
    expected = 'a rate such as "1KiB/s", or 0 for none'
    if isinstance(value, str):
        text = value.strip()
        if text == "0":
            return 0.0
        if not text.endswith("/s"):
            raise UnacceptableError(f"{shown(value)} is not a rate", expected)
        try:
            return float(parse_size(text.removesuffix("/s").rstrip()))
        except UnacceptableError as error:
            raise UnacceptableError(f"{shown(value)} is not a rate", expected) from error
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAXIMUM_SIZE:
        return float(value) + 0.0  # no negative zero
    raise UnacceptableError(f"{shown(value)} is not a rate", expected)


def format_rate(rate: float) -> str | float:
    """Format in the largest binary unit; a rate with a fraction of a byte stays a number."""
    return format_size(int(rate)) + "/s" if rate == int(rate) else rate


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and TCP port to listen on. Port 0 lets the kernel choose. `host` has no brackets."""

    host: str
    port: int

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The host as an IP address object, for its version and for comparisons."""
        return ipaddress.ip_address(self.host)

    def __str__(self) -> str:
        return format_address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class HostPort:
    """A remote host, by name or address, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_address(self.host, self.port)


def _split(value: object, expected: str) -> tuple[str, int, bool]:
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not an address with a port", expected)
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([0-9]{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise UnacceptableError(f"{shown(value)} is not an address with a port", expected)
    return (match[2] if match[1] is None else match[1]), int(match[3]), match[1] is not None


def parse_address(value: object) -> Address:
    """Parse an IP address and port to listen on: `"127.0.0.1:11112"`, `"[::]:0"`. Raises UnacceptableError."""
    if isinstance(value, Address):
        return value
    expected = 'an address such as "0.0.0.0:11112" or "[::]:11112"'
    host, port, bracketed = _split(value, expected)
    if host in {"", "*"}:
        raise UnacceptableError(f"{shown(value)} names no address", f'"0.0.0.0:{port}" or "[::]:{port}" for all')
    if host == "localhost":
        raise UnacceptableError("names are not resolved", f'"127.0.0.1:{port}" or "[::1]:{port}"')
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise UnacceptableError(f"{shown(host)} is not an IP address", expected) from error
    if bracketed != (address.version == 6):
        raise UnacceptableError(f"{shown(value)} is not an address with a port", expected)
    return Address(str(address), port)


_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


def parse_host_port(value: object) -> HostPort:
    """Parse a host to connect to: `"syslog.example.org:6514"`, `"10.0.0.9:6514"`, `"[2001:db8::1]:6514"`."""
    if isinstance(value, HostPort):
        return value
    expected = 'a host such as "syslog.example.org:6514"'
    host, port, bracketed = _split(value, expected)
    if port == 0:
        raise UnacceptableError("port 0 can't be connected to", expected)
    if bracketed:
        try:
            return HostPort(str(ipaddress.IPv6Address(host)), port)
        except ValueError as error:
            raise UnacceptableError(f"{shown(host)} is not an IPv6 address", expected) from error
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise UnacceptableError(f"{shown(host)} is not a host name", expected)
    return HostPort(host, port)


def parse_host_port_or_off(value: object) -> HostPort | None:
    """Parse a host to connect to; None for the empty text, which means off."""
    return None if value is None or value == "" else parse_host_port(value)


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(value: object) -> Network:
    """Parse a network or a single address: `"10.1.2.0/24"`, `"2001:db8::/32"`, `"10.1.2.3"`. Raises UnacceptableError.

    A network of IPv4-mapped IPv6 addresses becomes the IPv4 network, since such peers are matched as IPv4.
    """
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    expected = 'a network such as "10.1.2.0/24" or an address such as "10.1.2.3"'
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not a network", expected)
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise UnacceptableError(f"{shown(value)} is not a network", expected) from error
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise UnacceptableError(f"{shown(value)} has host bits set", f'"{network}", or the address alone') from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFF_FFFF)
        return ipaddress.IPv4Network((inner, network.prefixlen - 96))
    return network
