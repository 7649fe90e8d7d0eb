"""Quantities and addresses as people read them."""

from __future__ import annotations

import pytest

from dicomd.formatting import format_address, format_bytes, format_elapsed, format_time


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e18, "3000.0 PB")]
)
def test_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (86400, "1 d"), (90061, "1 d 1 h")]
)
def test_elapsed_time(seconds: int, text: str) -> None:
    assert format_elapsed(seconds) == text


def test_a_time_of_day() -> None:
    assert format_time(1_767_323_045.9) == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("host", "text"), [("10.0.0.9", "10.0.0.9:104"), ("pacs.example.org", "pacs.example.org:104"), ("::1", "[::1]:104")]
)
def test_addresses(host: str, text: str) -> None:
    assert format_address(host, 104) == text
