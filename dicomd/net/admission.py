"""Who may open a connection and an Association, and how many at once.

The rule it keeps: what is counted in is counted out, whatever happens in between.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from dicomd.net.rejection import Rejection, RejectSource, Result
from dicomd.uids import APPLICATION_CONTEXT_NAME
from dicomd.upperlayer.negotiation import AssociateRequest

_AE_TITLE_CHARACTERS = frozenset(map(chr, range(0x20, 0x7F))) - {"\\"}


class Source(NamedTuple):
    """Who is at the other end of a connection, before it has said a word of DICOM.

    `address` as `listener.source_address` writes it; `certificate_names` are the names in the certificate that a TLS
    peer has shown and that was verified, none without one.
    """

    address: str
    certificate_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Numbers that may be open at once; `per_peer` counts by source address."""

    connections: int = 1024
    associations: int = 256
    per_peer: int = 64


class Full(Enum):
    """Which limit leaves no place for another Association."""

    ASSOCIATIONS = auto()
    PEER = auto()


class Places(Protocol):
    """Where connections and Associations are counted: in one process (`LocalPlaces`), or over all that serve."""

    def connect(self, limit: int) -> bool:
        """Count a connection in; False, and not counted, when `limit` are open."""

    def disconnect(self) -> None:
        """Count a connection out."""

    def enter(self, peer: str, *, associations: int, per_peer: int) -> Full | None:
        """Count an Association of `peer` in, or say which of the two limits is reached."""

    def leave(self, peer: str) -> None:
        """Count an Association out."""

    @property
    def open_associations(self) -> int:
        """How many Associations this process has open."""


class LocalPlaces:
    """Counts for a process that serves alone."""

    def __init__(self) -> None:
        self._connections = 0
        self._associations: Counter[str] = Counter()
        self._lock = threading.Lock()

    def connect(self, limit: int) -> bool:
        """Count a connection in; False, and not counted, when `limit` are open."""
        with self._lock:
            if self._connections >= limit:
                return False
            self._connections += 1
            return True

    def disconnect(self) -> None:
        """Count a connection out."""
        with self._lock:
            self._connections -= 1

    def enter(self, peer: str, *, associations: int, per_peer: int) -> Full | None:
        """Count an Association of `peer` in, or say which of the two limits is reached."""
        with self._lock:
            if self._associations.total() >= associations:
                return Full.ASSOCIATIONS
            if self._associations[peer] >= per_peer:
                return Full.PEER
            self._associations[peer] += 1
            return None

    def leave(self, peer: str) -> None:
        """Count an Association out."""
        with self._lock:
            self._associations[peer] -= 1
            if not self._associations[peer]:
                del self._associations[peer]

    @property
    def open_associations(self) -> int:
        """How many Associations are open now."""
        with self._lock:
            return self._associations.total()


class Admission:
    """Judges requests, and sees that what is open stays within the limits. Safe to use from many threads.

    `ae_titles` are the accepted Called AE Titles, empty for any. `unready` returns why no Association can be taken at
    present, or an empty string. `places` counts.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        *,
        ae_titles: frozenset[str],
        unready: Callable[[], str],
        places: Places | None = None,
    ) -> None:
        self._limits, self._ae_titles, self._unready = limits, ae_titles, unready
        self._places = LocalPlaces() if places is None else places

    @property
    def open_associations(self) -> int:
        """How many Associations this process has open."""
        return self._places.open_associations

    def connect(self) -> bool:
        """Count a connection in; False, and not counted, when there are too many."""
        return self._places.connect(self._limits.connections)

    def disconnect(self) -> None:
        """Count a connection out."""
        self._places.disconnect()

    def admit(self, request: AssociateRequest, source: Source) -> Rejection | None:
        """Judge `request` from `source` and count the Association in, or return why not."""
        if rejection := self._judge(request):
            return rejection
        if reason := self._unready():
            return Rejection(Result.TRANSIENT, RejectSource.PROVIDER_PRESENTATION, 1, reason)
        limits = self._limits
        full = self._places.enter(source.address, associations=limits.associations, per_peer=limits.per_peer)
        if full is None:
            return None
        if full is Full.ASSOCIATIONS:
            limit = f"limits.associations = {limits.associations} are open"
        else:
            limit = f"limits.associations_per_peer = {limits.per_peer} are open from this address"
        return Rejection(Result.TRANSIENT, RejectSource.PROVIDER_PRESENTATION, 2, limit)

    def leave(self, source: Source) -> None:
        """Count an admitted Association out."""
        self._places.leave(source.address)

    def _judge(self, request: AssociateRequest) -> Rejection | None:
        if not request.protocol_version & 1:
            return Rejection(
                Result.PERMANENT, RejectSource.PROVIDER_ACSE, 2, "the peer doesn't speak protocol version 1"
            )
        if not _is_ae_title(request.calling_ae_title):
            return Rejection(
                Result.PERMANENT, RejectSource.SERVICE_USER, 3, "the Calling AE Title is empty or not valid"
            )
        if self._ae_titles and request.called_ae_title not in self._ae_titles:
            return Rejection(
                Result.PERMANENT,
                RejectSource.SERVICE_USER,
                7,
                "the Called AE Title is not in dicomd.ae_titles: add it there",
            )
        return None


def judge_application_context(name: str) -> Rejection | None:
    """There is one application context in DICOM (PS3.7 §A.2.1)."""
    if name == APPLICATION_CONTEXT_NAME:
        return None
    return Rejection(Result.PERMANENT, RejectSource.SERVICE_USER, 2, "the application context is not DICOM's")


def _is_ae_title(text: str) -> bool:
    """PS3.5 §6.2: 1 to 16 characters of the default repertoire without backslash and control characters."""
    return bool(text) and _AE_TITLE_CHARACTERS.issuperset(text)
