"""The decision to reject an Association, with an explanation for the operator.

Invariant: every rejection has codes of PS3.8 Table 9-21, and a sentence for the log that says what to change.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicomd.rejections import RejectReason


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ to send; `advice` is for the operator: why, and what would let the peer in.

    `limit` is the limit that was reached, as its metric is labelled, or "".
    """

    reason: RejectReason
    advice: str
    limit: str = ""
