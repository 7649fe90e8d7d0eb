"""What the daemon shows of itself: open Associations, figures, refusals, and what the supervisor says of itself.

The rule it keeps: all of it is memory of one size that the processes share. Workers and the supervisor write their
parts, the exporter and the supervisor read, and nobody waits for anybody.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from dicomd.ipc.association_table import AssociationEntry, AssociationTable, WorkerRows
from dicomd.ipc.refusals import Refusals
from dicomd.ipc.seqlock import SeqlockRecord
from dicomd.net.status_sink import Refused
from dicomd.telemetry.budget import LineBudget
from dicomd.telemetry.fields import safe_text

_OWN_STATUS: Final = 64 * 1024  # bytes
_TITLE: Final = 64  # characters of an AE Title, whose 16 may all be escaped


class SharedStatus:
    """Made by the supervisor; `locked` is what writers of refusals, and of strangers' log lines, hold."""

    def __init__(self, slots: int, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self.associations, self.refusals = AssociationTable(slots), Refusals(locked)
        self.log_budget = LineBudget(locked)
        """What strangers can make all these processes log, in all."""
        self._own_status = SeqlockRecord(memoryview(mmap.mmap(-1, _OWN_STATUS)))

    def publish(self, own_status: dict[str, Any]) -> None:
        """What the supervisor alone knows. Raises ValueError where that is too much."""
        self._own_status.write(own_status)

    def own_status(self) -> dict[str, Any]:
        """What the supervisor has published; empty before the start is through."""
        found = self._own_status.read()
        return found if isinstance(found, dict) else {}


class WorkerStatus:
    """A worker's part, as `net.status_sink.StatusSink` wants it."""

    def __init__(self, rows: WorkerRows, refusals: Refusals) -> None:
        self.rows, self._refusals = rows, refusals
        self.count = rows.count

    def open(self, known: dict[str, Any]) -> AssociationEntry:
        """Show an Association: its AE Titles are a stranger's bytes."""
        safe = {key: safe_text(value, _TITLE) if isinstance(value, str) else value for key, value in known.items()}
        return self.rows.open(safe | {"began": time.monotonic()})

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Add a refusal."""
        texts = {"refused": str(what), "why": why, "advice": advice, **who}
        self._refusals.note({key: safe_text(text) for key, text in texts.items()})
