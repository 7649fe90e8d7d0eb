"""What the daemon shows of itself: open Associations, figures, refusals, and the supervisor's own bulletin.

The rule it keeps: all of it is memory of one size that the processes share. Workers and the supervisor write their
parts, the exporter and the supervisor read, and nobody waits for anybody.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from dicomd.ipc.association_table import Page, Roster, Row
from dicomd.ipc.refusals import Refusals
from dicomd.ipc.seqlock import Record
from dicomd.net.display import Refused
from dicomd.telemetry.budget import LineBudget
from dicomd.telemetry.fields import safe_text

_BULLETIN: Final = 64 * 1024  # bytes
_TITLE: Final = 64  # characters of an AE Title, whose 16 may all be escaped


class Display:
    """Made by the supervisor; `locked` is what writers of refusals, and of strangers' log lines, hold."""

    def __init__(self, slots: int, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self.roster, self.refusals = Roster(slots), Refusals(locked)
        self.log_budget = LineBudget(locked)
        """What strangers can make all these processes log, in all."""
        self._bulletin = Record(memoryview(mmap.mmap(-1, _BULLETIN)))

    def publish(self, bulletin: dict[str, Any]) -> None:
        """What the supervisor alone knows. Raises ValueError where that is too much."""
        self._bulletin.write(bulletin)

    def bulletin(self) -> dict[str, Any]:
        """What the supervisor has published; empty before the start is through."""
        found = self._bulletin.read()
        return found if isinstance(found, dict) else {}


class WorkerDisplay:
    """A worker's part, as `net.display.Display` wants it."""

    def __init__(self, page: Page, refusals: Refusals) -> None:
        self.page, self._refusals = page, refusals
        self.count = page.count

    def open(self, known: dict[str, Any]) -> Row:
        """Show an Association: its AE Titles are a stranger's bytes."""
        safe = {key: safe_text(value, _TITLE) if isinstance(value, str) else value for key, value in known.items()}
        return self.page.open(safe | {"began": time.monotonic()})

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Add a refusal."""
        texts = {"refused": str(what), "why": why, "advice": advice, **who}
        self._refusals.note({key: safe_text(text) for key, text in texts.items()})
