"""Decides who may open a connection and an Association, and how many may be open at once.

Invariant: whatever is counted in is counted out again, whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dicomd.net.access import AccessDecision, AccessRules, Source
from dicomd.net.admission_counter import AdmissionCounter, LimitReached
from dicomd.net.rejection import Rejection
from dicomd.rejections import RejectReason
from dicomd.uids import APPLICATION_CONTEXT_NAME
from dicomd.upperlayer.negotiation import AssociateRequest


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many may be open at once; the limit of a peer comes with the decision on it."""

    connections: int
    associations: int


class Admission:
    """Judges requests, and keeps what is open within the limits. Thread-safe.

    `rules` say who may do what. `unready` returns why no Association can be accepted at present, or an empty string.
    `counter` knows what all processes together have open.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        *,
        rules: AccessRules,
        unready: Callable[[], str],
        counter: AdmissionCounter,
    ) -> None:
        self.rules = rules
        self._limits = limits
        self._unready = unready
        self._counter = counter

    def connect(self) -> bool:
        """Count a connection in; return False, without counting it, if there are too many."""
        return self._counter.connect(self._limits.connections)

    def disconnect(self, *, admitted: bool) -> None:
        """Count a connection out; `admitted`: it had an Association, which was counted out."""
        self._counter.disconnect(admitted=admitted)

    def admit(self, request: AssociateRequest, source: Source) -> AccessDecision:
        """Judge `request` from `source`. Unless the decision is a refusal, the Association is then counted in."""
        decision = self.rules.judge(calling=request.calling_ae_title, called=request.called_ae_title, source=source)
        rejection = self._protocol(request) or decision.refusal or self._transient(decision)
        return decision if rejection is decision.refusal else decision._replace(refusal=rejection, refused_by="")

    def leave(self, decision: AccessDecision) -> None:
        """Count an admitted Association out."""
        self._counter.leave(decision.counted_as)

    def _protocol(self, request: AssociateRequest) -> Rejection | None:
        if request.protocol_version & 1:
            return None
        advice = "the peer doesn't speak protocol version 1"
        return Rejection(RejectReason.PROTOCOL_VERSION_NOT_SUPPORTED, advice)

    def _transient(self, decision: AccessDecision) -> Rejection | None:
        """Check what may change at any moment. If this returns None, the Association has been counted in."""
        if reason := self._unready():
            return Rejection(RejectReason.TEMPORARY_CONGESTION, reason)
        limits = self._limits
        full = self._counter.enter(
            decision.counted_as, associations=limits.associations, per_peer=decision.associations
        )
        if full is None:
            return None
        if full is LimitReached.ASSOCIATIONS:
            advice = f"limits.associations = {limits.associations} are open"
        else:
            whose = "of this peer" if decision.peer else "from this host"
            advice = f"{decision.limited_by} = {decision.associations} are open {whose}"
        return Rejection(RejectReason.LOCAL_LIMIT_EXCEEDED, advice, full.value)


def judge_application_context(name: str) -> Rejection | None:
    """Reject any but the one application context of DICOM (PS3.7 §A.2.1)."""
    if name == APPLICATION_CONTEXT_NAME:
        return None
    return Rejection(RejectReason.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED, "the application context is not DICOM's")
