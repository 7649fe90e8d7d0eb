"""Quantities, addresses and other values as people read them: in `dicomd status`, on the status page, in messages.

The configuration's own notation ("256KiB", "1m30s"), which is parsed too, is in `dicomd.config.units`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_BYTE_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_TIME_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def format_bytes(count: float) -> str:
    """Format a number of bytes with a decimal unit: `999` becomes "999 B", `2_500_000` "2.5 MB"."""
    for unit in _BYTE_UNITS:
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"


def format_elapsed(seconds: int) -> str:
    """Format a span of whole seconds in its two largest units: `90061` becomes "1 d 1 h"."""
    parts = list[str]()
    for unit, length in _TIME_UNITS:
        count, seconds = divmod(seconds, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def format_time(timestamp: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC, without fractions: "2026-01-02T03:04:05Z"."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_address(host: str, port: int) -> str:
    """Format a host and a port, an IPv6 address in brackets: "10.0.0.9:104", "[::1]:104"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown(value: object) -> str:
    """Format a value for a message: short, on one line, with control characters escaped."""
    text = repr(value) if not isinstance(value, str) else f'"{value.encode("unicode_escape").decode("ascii")}"'
    return text if len(text) <= 80 else text[:76] + " ..."
