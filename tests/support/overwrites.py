"""Decides which acknowledged instances are lost if equal UIDs may overwrite each other (`duplicates = "replace"`).

An acknowledged Data Set that is missing must have been overwritten legitimately: by one that is present under the same
UID, and whose sending had not ended before the last acknowledged sending of the missing one began. Of all that are
present, the one that ended last decides: if it can have come after all that are missing, there is an order of all
sendings that explains what is found, and otherwise there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass
class Sending:
    """One sending of a Data Set: from before its first byte until its answer, or for ever if it got none.

    All times are of one clock. Without an answer there is no telling how long the daemon worked on it.
    """

    uid: str
    digest: bytes
    began: float
    ended: float = math.inf
    acknowledged: bool = False


def lost(
    sendings: Iterable[Sending], present: Mapping[tuple[str, bytes], float], *, overwriting: bool
) -> list[tuple[str, bytes]]:
    """The acknowledged Data Sets (UID and digest) that are missing without an excuse.

    `present` maps each that was found to the latest time at which it can have been published: the time when it was
    moved away, or `inf`. Without `overwriting` nothing is ever excused.
    """
    acknowledged: dict[tuple[str, bytes], float] = {}
    last: dict[str, float] = {}  # by UID, the latest time at which a present one may have overwritten another
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
