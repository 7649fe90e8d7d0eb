"""The format that a scrape gets, for the headers of real scrapers and for malformed ones."""

from __future__ import annotations

import pytest

from dicomd.monitoring.accept import accepts_gzip, choices, prefers_openmetrics

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TEXT_FIRST = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        (TEXT_FIRST, False),
        (BROWSER, False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("text/plain, application/openmetrics-text", False),
        ("application/openmetrics-text, text/plain", True),
        ("application/openmetrics-text;q=0, text/plain;q=0.1", False),
        ("", False),
        ("*/*", False),
        ("application/openmetrics-text;version=1=2", False),
        ("application/openmetrics-text;version=x.y.z", False),
        ("application/openmetrics-text;version=99.0.0", False),
        ("application/openmetrics-text;version=" + "9" * 5000, False),
        ("application/openmetrics-text;q=abc", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=1e999", False),
        ("text/plain;version=1=2", False),
        (";;;=,=;", False),
        ("," * 60_000, False),
        (";" * 60_000, False),
        ("a" * 60_000, False),
    ],
)
def test_format(accept: str, openmetrics: bool) -> None:
    assert prefers_openmetrics(accept) is openmetrics


@pytest.mark.parametrize(
    ("accept_encoding", "gzip"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("br, x-gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=foo", False),
        ("identity", False),
        ("", False),
    ],
)
def test_compression(accept_encoding: str, gzip: bool) -> None:
    assert accepts_gzip(accept_encoding) is gzip


def test_a_list_is_read_up_to_a_bound() -> None:
    assert sum(1 for _ in choices("a," * 30_000)) == 100
