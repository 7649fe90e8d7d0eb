"""Runs dicomd without counting instances, like `python -m dicomd`: the difference in CPU time is what metrics cost.

Only what is done once per instance is left out; everything else is unchanged.
"""

from __future__ import annotations

from typing import Any

from dicomd.cli.main import main
from dicomd.telemetry import logs
from dicomd.telemetry.metrics import Metrics


def nothing(*_: Any, **__: Any) -> None:
    """Count nothing."""


def stop_counting() -> None:
    """Have this process count neither instances nor log lines: no option of dicomd's does."""
    Metrics.store_finished = nothing  # type: ignore[method-assign]
    logs._counters = lambda _metrics: (dict.fromkeys(logs.LEVELS, nothing), nothing, nothing)  # noqa: SLF001


if __name__ == "__main__":
    stop_counting()
    main(prog_name="dicomd")
