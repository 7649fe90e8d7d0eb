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
from itertools import islice
from typing import Any, Final, TypedDict

from dicomd.ipc.association_table import AssociationEntry, AssociationTable, WorkerRows
from dicomd.ipc.refusals import Refusals
from dicomd.ipc.seqlock import SeqlockRecord
from dicomd.net.status_sink import Refused
from dicomd.telemetry.budget import LineBudget
from dicomd.telemetry.fields import all_safe, safe_text

_TITLE: Final = 64  # characters of an AE Title, all 16 of which may be escaped
_MOST: Final = 64  # addresses, names, errors or keys in one list of the supervisor's


class LastReload(TypedDict):
    """How reading the configuration ended the last time, the start included; `time` is in seconds since the epoch."""

    time: float
    successful: bool
    errors: list[str]


class ConfigurationStatus(TypedDict):
    """The configuration in force, and the keys of the file that need a restart."""

    path: str
    last_reload: LastReload
    restart_pending: list[str]


class SupervisorStatus(TypedDict):
    """What only the supervisor knows: where it listens (addresses by name), and what it has read."""

    listeners: dict[str, str]
    http: list[str]
    http_hosts: list[str]
    access_open: bool
    associations_limit: int
    root: str
    layout: str
    reserve_bytes: int
    configuration: ConfigurationStatus


class _SupervisorRecord(SeqlockRecord):
    """A `SupervisorStatus`, which always fits: it has six lists of at most `_MOST` texts of `MAX_TEXT` characters."""

    _fields_ = (("_data", ctypes.c_ubyte * (1024 * 1024)),)  # pages that are never touched cost nothing


class SharedStatus:
    """Created by the supervisor. Writers of refusals, and of log lines about strangers, hold the lock `locked`."""

    def __init__(self, slots: int, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self.associations = AssociationTable(slots)
        self.refusals = Refusals(locked)
        self.log_budget = LineBudget(locked)
        """Limits how much strangers can make all these processes together log."""
        self._supervisor = _SupervisorRecord.from_buffer(mmap.mmap(-1, ctypes.sizeof(_SupervisorRecord)))

    def publish(self, status: SupervisorStatus) -> None:
        """Publish what only the supervisor knows, with all texts escaped, and texts and lists truncated."""
        self._supervisor.write(_bounded(status))

    def supervisor(self) -> SupervisorStatus | None:
        """Return what the supervisor has published, or None until the start is complete."""
        found: SupervisorStatus | None = self._supervisor.read()
        return found


class WorkerStatus:
    """One worker's part, a `net.status_sink.StatusSink`."""

    def __init__(self, rows: WorkerRows, refusals: Refusals) -> None:
        self.rows = rows
        self.count = rows.count
        self._refusals = refusals

    def open(self, known: dict[str, str]) -> AssociationEntry:
        """List an Association. Its texts are escaped and truncated, because its AE Titles are untrusted."""
        safe: dict[str, Any] = dict(known)
        if not all_safe(known.values(), _TITLE):
            safe = {key: safe_text(value, _TITLE) for key, value in known.items()}
        safe["began"] = time.monotonic()
        return self.rows.open(safe)

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Record a refusal."""
        texts = {"refused": str(what), "why": why, "advice": advice, **who}
        self._refusals.note({key: safe_text(text) for key, text in texts.items()})


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, dict):
        return {key: _bounded(item) for key, item in islice(value.items(), _MOST)}
    if isinstance(value, list):
        return [_bounded(item) for item in value[:_MOST]]
    return value
