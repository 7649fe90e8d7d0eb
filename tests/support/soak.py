"""Divides the time of `./scripts/test soak MINUTES` among the tests marked `soak`.

Invariant: the shares of all soak tests add up to at most one, so that the whole run takes the time that was asked for.
"""

from __future__ import annotations

import os


def soak_seconds(share: float) -> float:
    """The seconds for a test with this share of the whole: of DICOMD_SOAK_MINUTES, by default an hour."""
    return 60 * share * float(os.environ.get("DICOMD_SOAK_MINUTES", "60"))
