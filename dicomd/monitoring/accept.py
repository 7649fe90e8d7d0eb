"""What an HTTP client accepts: its Accept and Accept-Encoding headers (RFC 9110 §12.5).

Invariant: no header raises. A part that can't be understood is passed over, and who asks for nothing that is known
gets what every client takes: plain text, uncompressed. Nothing of a header gets into the answer.
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
    """One of the alternatives that a client lists, in lower case: how much it wants it, from 0 (not at all) to 1."""

    name: str
    parameters: dict[str, str]
    weight: float


def choices(header: str) -> Iterator[Choice]:
    """The alternatives in their order, without those that are malformed."""
    for text in header.lower().split(",", _MOST_CHOICES)[:_MOST_CHOICES]:
        name, *rest = (part.strip() for part in text.split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in rest)}
        weight = parameters.pop("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield Choice(name, parameters, float(weight))


def prefers_openmetrics(accept: str) -> bool:
    """Whether a scrape wants OpenMetrics 1.0.0 more than Prometheus' text; what is listed first wins a draw."""
    openmetrics, rank = False, 0.0
    for choice in choices(accept):
        wanted = choice.name == _OPENMETRICS and choice.parameters.get("version", "") in _OPENMETRICS_VERSIONS
        if choice.weight > rank and (wanted or choice.name in _PLAIN_TEXT):
            openmetrics, rank = wanted, choice.weight
    return openmetrics


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an answer may be compressed."""
    return any(choice.name in _GZIP and choice.weight > 0 for choice in choices(accept_encoding))
