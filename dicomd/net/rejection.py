"""An A-ASSOCIATE-RJ, with an explanation for the operator.

Invariant: every refusal has the result, source and reason of PS3.8 Table 9-21, and a sentence for the log that says
what to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class RejectResult(IntEnum):
    """Whether the peer may try again (PS3.8 Table 9-21)."""

    PERMANENT = 1
    TRANSIENT = 2


class RejectSource(IntEnum):
    """Who rejects (PS3.8 Table 9-21)."""

    SERVICE_USER = 1
    PROVIDER_ACSE = 2
    PROVIDER_PRESENTATION = 3


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 §9.3.4); `advice` is for the operator: why, and what would let the peer in.

    `limit` is the limit that was reached, as its metric is labelled, or "".
    """

    result: RejectResult
    source: RejectSource
    reason: int
    advice: str
    limit: str = ""
