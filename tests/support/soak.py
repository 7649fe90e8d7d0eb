"""How long the tests marked `soak` run: `./scripts/test soak MINUTES` is shared out among them.

The rule it keeps: the shares of all soak tests add up to at most one, so that the whole takes what was asked for.
"""

from __future__ import annotations

import os


def soak_seconds(share: float) -> float:
    """The seconds of a test that takes `share` of the whole, an hour unless DICOMD_SOAK_MINUTES says otherwise."""
    return 60 * share * float(os.environ.get("DICOMD_SOAK_MINUTES", "60"))
