"""Which acknowledged instances are lost, where equal UIDs may overwrite each other (`duplicates = "replace"`)?

A Data Set that was acknowledged and is nowhere must have been overwritten on purpose: by one that is there, under the
same UID, whose sending hadn't ended before the lost one's last acknowledged sending began. Of all that are there, the
one that ended last decides: if it can have come after all that are missing, then there is an order of all sendings that
explains what is found, and otherwise there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass
class Sending:
    """One time that a Data Set was sent: from before its first byte until its answer, or for ever without one.

    Times are those of one clock. Without an answer nobody knows until when the daemon may have been at it.
    """

    uid: str
    digest: bytes
    began: float
    ended: float = math.inf
    acknowledged: bool = False


def lost(
    sendings: Iterable[Sending], present: Mapping[tuple[str, bytes], float], *, overwriting: bool
) -> list[tuple[str, bytes]]:
    """The acknowledged Data Sets (UID and digest) that nothing excuses.

    `present` tells for each that was found until when it can have been published: when it was moved away, or `inf`.
    Without `overwriting` nothing is ever excused.
    """
    acknowledged: dict[tuple[str, bytes], float] = {}
    last: dict[str, float] = {}  # by UID, until when one of those that are there may have overwritten another
    for sending in sendings:
        key = sending.uid, sending.digest
        if sending.acknowledged:
            acknowledged[key] = max(acknowledged.get(key, -math.inf), sending.began)
        if key in present:
            last[sending.uid] = max(last.get(sending.uid, -math.inf), min(sending.ended, present[key]))
    return [
        (uid, digest)
        for (uid, digest), began in acknowledged.items()
        if (uid, digest) not in present and not (overwriting and last.get(uid, -math.inf) > began)
    ]
