"""What the daemon shows in its status: open Associations, counters, refusals, and what only the supervisor knows.

Invariant: all of it is shared memory of fixed size. Workers and the supervisor write their parts, the exporter and the
supervisor read, and no reader waits for a writer or keeps one waiting.
"""

from __future__ import annotations

import ctypes
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

_TITLE: Final = 64  # characters of an AE Title, all 16 of which may be escaped


class _OwnStatus(SeqlockRecord):
    """What only the supervisor knows."""

    _fields_ = (("_data", ctypes.c_ubyte * (64 * 1024)),)


class SharedStatus:
    """Created by the supervisor. Writers of refusals, and of log lines about strangers, hold the lock `locked`."""

    def __init__(self, slots: int, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self.associations, self.refusals = AssociationTable(slots), Refusals(locked)
        self.log_budget = LineBudget(locked)
        """Limits how much strangers can make all these processes together log."""
        self._own_status = _OwnStatus.from_buffer(mmap.mmap(-1, ctypes.sizeof(_OwnStatus)))

    def publish(self, own_status: dict[str, Any]) -> None:
        """Publish what only the supervisor knows. Raises ValueError if that is too large."""
        self._own_status.write(own_status)

    def own_status(self) -> dict[str, Any]:
        """Return what the supervisor has published; empty until the start is complete."""
        found = self._own_status.read()
        return found if isinstance(found, dict) else {}


class WorkerStatus:
    """One worker's part, a `net.status_sink.StatusSink`."""

    def __init__(self, rows: WorkerRows, refusals: Refusals) -> None:
        self.rows, self._refusals = rows, refusals
        self.count = rows.count

    def open(self, known: dict[str, Any]) -> AssociationEntry:
        """List an Association. Its texts are escaped and truncated, because its AE Titles are untrusted."""
        safe = {key: safe_text(value, _TITLE) if isinstance(value, str) else value for key, value in known.items()}
        return self.rows.open(safe | {"began": time.monotonic()})

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Record a refusal."""
        texts = {"refused": str(what), "why": why, "advice": advice, **who}
        self._refusals.note({key: safe_text(text) for key, text in texts.items()})
