"""What an HTTP client accepts, according to its Accept and Accept-Encoding headers (RFC 9110 §12.5).

Invariant: no header raises, and nothing of a header is copied into the answer. Malformed parts are ignored, and a
client that asks for nothing we can send gets what every client accepts: plain text, uncompressed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_OPENMETRICS: Final = "application/openmetrics-text"
_OPENMETRICS_VERSIONS: Final = ("", "1.0.0")
_PLAIN_TEXT: Final = ("text/plain", "text/*", "*/*")
_GZIP: Final = ("gzip", "x-gzip")
_MOST_CHOICES: Final = 100  # Prometheus lists five
_WEIGHT: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", re.ASCII)


class Choice(NamedTuple):
    """One of the alternatives that a client lists, in lower case, with its `weight` from 0 (not acceptable) to 1."""

    name: str
    parameters: dict[str, str]
    weight: float


def choices(header: str) -> Iterator[Choice]:
    """Yield the alternatives in order, except malformed ones."""
    for text in header.lower().split(",", _MOST_CHOICES)[:_MOST_CHOICES]:
        name, *rest = (part.strip() for part in text.split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in rest)}
        weight = parameters.pop("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield Choice(name, parameters, float(weight))


def prefers_openmetrics(accept: str) -> bool:
    """Whether a scrape prefers OpenMetrics 1.0.0 to Prometheus' text format. Of equal weights, the first wins."""
    openmetrics = False
    rank = 0.0
    for choice in choices(accept):
        wanted = choice.name == _OPENMETRICS and choice.parameters.get("version", "") in _OPENMETRICS_VERSIONS
        if choice.weight > rank and (wanted or choice.name in _PLAIN_TEXT):
            openmetrics = wanted
            rank = choice.weight
    return openmetrics


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the answer may be compressed with gzip."""
    return any(choice.name in _GZIP and choice.weight > 0 for choice in choices(accept_encoding))
