"""The last refusals of all workers: who was refused, why, and what would change that.

Invariant: at most `KEPT` refusals are kept, and no peer can displace those of all others. A repeated refusal for the
same reason is the same entry with a higher count. Once all places are used, a host that has `_OF_A_HOST` entries
replaces its own, however many AE Titles it makes up, and unknown peers leave half of all places to configured ones.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final

import orjson

from dicomd.addresses import host_of
from dicomd.ipc.seqlock import SeqlockRecord
from dicomd.telemetry.labels import UNKNOWN_PEER

KEPT: Final = 20
_OF_A_HOST: Final = 4
_OF_STRANGERS: Final = KEPT // 2
_TEXT: Final = 256  # characters of one value


class _Record(SeqlockRecord):
    """One refusal: its kind, three numbers, and seven texts of at most `_TEXT` characters of up to four bytes each."""

    _fields_ = (("_data", ctypes.c_ubyte * 8180),)


class _Memory(ctypes.Structure):
    """The records, and for each the digest by which the same refusal is found again, or 0."""

    _fields_ = (
        ("digests", ctypes.c_uint64 * KEPT),
        ("records", _Record * KEPT),
    )


class Refusals:
    """The refusals, inherited by every fork. `locked` excludes other writers; readers need no lock."""

    def __init__(self, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self._locked = locked
        memory = _Memory.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Memory)))
        self._digests = memory.digests
        self._records: list[_Record] = list(memory.records)

    def note(self, what: dict[str, str]) -> None:
        """Record a refusal. The supervisor must not call this, because it waits for other writers."""
        known = {key: text[:_TEXT] for key, text in what.items() if text}
        digest = int.from_bytes(blake2b(orjson.dumps(known), digest_size=8).digest(), "little") or 1
        now = time.time()
        with self._locked():
            digests = list(self._digests)
            if digest in digests:
                at = digests.index(digest)
                before = self._records[at].read() or {}
            else:
                at = self._place_for(known)
                before = {}
            self._digests[at] = digest
            self._records[at].write(
                known | {"first": before.get("first", now), "last": now, "count": before.get("count", 0) + 1}
            )

    def newest(self) -> list[dict[str, Any]]:
        """Return the refusals that are kept, the newest first; `first` and `last` are in seconds since the epoch."""
        entries = [record.read() for record in self._records]
        return sorted((e for e in entries if isinstance(e, dict)), key=lambda entry: -entry["last"])

    def _place_for(self, known: dict[str, str]) -> int:
        """Return a free place, or else that of the oldest entry that this one may replace."""
        entries = [record.read() or {} for record in self._records]
        hosts = [_host(entry) for entry in entries]
        host = _host(known)
        is_stranger = _is_stranger(known)
        strangers = [at for at, entry in enumerate(entries) if _is_stranger(entry)]
        candidates: Iterable[int] = range(KEPT)
        if all(entries):
            counts = Counter(hosts)
            if counts[host] >= _OF_A_HOST:
                candidates = [at for at in range(KEPT) if hosts[at] == host]
            elif max(counts.values()) > _OF_A_HOST:
                candidates = [at for at in range(KEPT) if counts[hosts[at]] > _OF_A_HOST]
            elif len(strangers) >= _OF_STRANGERS + (not is_stranger):
                candidates = strangers
        return min(candidates, key=lambda at: float(entries[at].get("last", 0.0)))


def _host(entry: dict[str, Any]) -> str:
    return host_of(str(entry.get("address", "")))


def _is_stranger(entry: dict[str, Any]) -> bool:
    """Whether the refused peer is not in the configuration."""
    return str(entry.get("peer", UNKNOWN_PEER)) == UNKNOWN_PEER
