"""Decides who may open a connection and an Association, and how many may be open at once.

Invariant: whatever is counted in is counted out again, whatever happens in between.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from dicomd.net.access import AccessDecision, AccessRules, Source
from dicomd.net.rejection import Rejection
from dicomd.rejections import RejectReason
from dicomd.uids import APPLICATION_CONTEXT_NAME
from dicomd.upperlayer.negotiation import AssociateRequest


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many may be open at once; the limit of a peer comes with the verdict on it."""

    connections: int = 1024
    associations: int = 256


class LimitReached(Enum):
    """Which limit prevents another Association, as its metric is labelled."""

    ASSOCIATIONS = "associations"
    PEER = "associations_per_peer"


class AdmissionCounter(Protocol):
    """Counts connections and Associations, in one process (`LocalPlaces`) or over all that serve."""

    def connect(self, limit: int) -> bool:
        """Count a connection in; return False, without counting it, if `limit` are open."""

    def disconnect(self, *, admitted: bool) -> None:
        """Count a connection out; `admitted`: it had an Association, which was counted out."""

    def enter(self, peer: str, *, associations: int, per_peer: int) -> LimitReached | None:
        """Count an Association of `peer` in, or return which of the two limits is reached."""

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
        """Count a connection in; return False, without counting it, if `limit` are open."""
        with self._lock:
            if self._connections >= limit:
                return False
            self._connections += 1
            return True

    def disconnect(self, *, admitted: bool) -> None:  # noqa: ARG002 - required by the protocol
        """Count a connection out."""
        with self._lock:
            self._connections -= 1

    def enter(self, peer: str, *, associations: int, per_peer: int) -> LimitReached | None:
        """Count an Association of `peer` in, or return which of the two limits is reached."""
        with self._lock:
            if self._associations.total() >= associations:
                return LimitReached.ASSOCIATIONS
            if self._associations[peer] >= per_peer:
                return LimitReached.PEER
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
    """Judges requests, and keeps what is open within the limits. Thread-safe.

    `rules` say who may do what. `unready` returns why no Association can be accepted at present, or an empty string.
    `places` does the counting.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        *,
        rules: AccessRules,
        unready: Callable[[], str],
        places: AdmissionCounter | None = None,
    ) -> None:
        self.rules = rules
        self._limits, self._unready = limits, unready
        self._places = LocalPlaces() if places is None else places

    @property
    def open_associations(self) -> int:
        """How many Associations this process has open."""
        return self._places.open_associations

    def connect(self) -> bool:
        """Count a connection in; return False, without counting it, if there are too many."""
        return self._places.connect(self._limits.connections)

    def disconnect(self, *, admitted: bool) -> None:
        """Count a connection out; `admitted`: it had an Association, which was counted out."""
        self._places.disconnect(admitted=admitted)

    def admit(self, request: AssociateRequest, source: Source) -> AccessDecision:
        """Judge `request` from `source`. Unless the verdict is a refusal, the Association is then counted in."""
        verdict = self.rules.judge(calling=request.calling_ae_title, called=request.called_ae_title, source=source)
        rejection = self._protocol(request) or verdict.refusal or self._transient(verdict)
        return verdict if rejection is verdict.refusal else replace(verdict, refusal=rejection, refused_by="")

    def leave(self, verdict: AccessDecision) -> None:
        """Count an admitted Association out."""
        self._places.leave(verdict.counted_as)

    def _protocol(self, request: AssociateRequest) -> Rejection | None:
        if request.protocol_version & 1:
            return None
        advice = "the peer doesn't speak protocol version 1"
        return Rejection(RejectReason.PROTOCOL_VERSION_NOT_SUPPORTED, advice)

    def _transient(self, verdict: AccessDecision) -> Rejection | None:
        """Check what may change at any moment. If this returns None, the Association has been counted in."""
        if reason := self._unready():
            return Rejection(RejectReason.TEMPORARY_CONGESTION, reason)
        limits = self._limits
        full = self._places.enter(verdict.counted_as, associations=limits.associations, per_peer=verdict.associations)
        if full is None:
            return None
        if full is LimitReached.ASSOCIATIONS:
            advice = f"limits.associations = {limits.associations} are open"
        else:
            whose = "of this peer" if verdict.peer else "from this host"
            advice = f"{verdict.limited_by} = {verdict.associations} are open {whose}"
        return Rejection(RejectReason.LOCAL_LIMIT_EXCEEDED, advice, full.value)


def judge_application_context(name: str) -> Rejection | None:
    """Reject any but the one application context of DICOM (PS3.7 §A.2.1)."""
    if name == APPLICATION_CONTEXT_NAME:
        return None
    return Rejection(RejectReason.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED, "the application context is not DICOM's")
