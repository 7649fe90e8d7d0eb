"""The last refusals of all workers: who was refused, why, and what would change that.

The rule it keeps: there are at most `KEPT`, whatever peers do. One that is refused again for the same reason is the
same entry with a higher count, so that a sender which tries every second doesn't push the others out.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final

import orjson

from dicomd.process.records import Record

KEPT: Final = 20
_ENTRY: Final = 8192  # bytes: six texts of up to four bytes a character
_TEXT: Final = 256  # characters of one value
_DIGESTS: Final = 8 * KEPT


class Refusals:
    """The memory, inherited by every fork; `locked` keeps other writers away, and only those."""

    def __init__(self, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self._locked = locked
        memory = memoryview(mmap.mmap(-1, _DIGESTS + KEPT * _ENTRY))
        self._digests = memory[:_DIGESTS].cast("Q")
        starts = range(_DIGESTS, _DIGESTS + KEPT * _ENTRY, _ENTRY)
        self._records = [Record(memory[start : start + _ENTRY]) for start in starts]

    def note(self, what: dict[str, str]) -> None:
        """One more. Not for the supervisor: it waits for the other writers."""
        known = {key: text[:_TEXT] for key, text in what.items() if text}
        digest = int.from_bytes(blake2b(orjson.dumps(known), digest_size=8).digest(), "little") or 1
        now = time.time()
        with self._locked():
            digests = self._digests.tolist()
            if digest in digests:
                at = digests.index(digest)
                before = self._records[at].read() or {}
            else:
                at, before = self._oldest(), {}
            self._digests[at] = digest
            self._records[at].write(
                known | {"first": before.get("first", now), "last": now, "count": before.get("count", 0) + 1}
            )

    def newest(self) -> list[dict[str, Any]]:
        """All that are kept, the newest first; `first` and `last` in seconds since 1970."""
        entries = [record.read() for record in self._records]
        return sorted((e for e in entries if isinstance(e, dict)), key=lambda entry: -entry["last"])

    def _oldest(self) -> int:
        last = [(record.read() or {}).get("last", 0.0) for record in self._records]
        return last.index(min(last))
