"""Why dicomd accepts no Associations, in the words that logs, probes, `dicomd status` and refused callers share."""

from __future__ import annotations

from typing import Final

STOPPING: Final = "dicomd stops"
MAINTENANCE: Final = "dicomd is in maintenance"
_STORE: Final = "the store is not accepting instances: "


def of_store(reason: str) -> str:
    """Say that the store is not accepting instances, and why."""
    return f"{_STORE}{reason}"


def shortened(reason: str) -> str:
    """Leave out that it is the store, where it says so anyway that no instances are accepted."""
    return reason.removeprefix(_STORE)
