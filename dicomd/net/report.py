"""Reports an Association from its connection to its end; `message_report` reports its messages.

Invariant: an Association that was requested is counted once, however it ends. It has one log line at its end, unless it
was refused: then the line about the refusal is the only one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter
from random import getrandbits
from typing import Any, Final, Literal

from dicomd.audit.transfers import AssociationAudit
from dicomd.net.access import AccessDecision
from dicomd.net.deadlines import TimedOutError
from dicomd.net.described_contexts import named_contexts
from dicomd.net.message_report import MessageReport
from dicomd.net.rejection import Rejection
from dicomd.net.status_sink import AssociationStatus, Refused, StatusSink
from dicomd.net.transport import Session, WokenError
from dicomd.outcomes import Outcome
from dicomd.protocols import Spoken, advice
from dicomd.rejections import RejectResult
from dicomd.telemetry.logs import LATER, bound_logger, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.render import PRESANITIZED
from dicomd.upperlayer.negotiation import AssociateRequest, Negotiated, Unanswered

_LOG = get_logger()
_SHOWN: Final = {
    "peer": "dicom_peer",
    "peer_address": "dicom_peer_address",
    "calling_aet": "dicom_calling_aet",
    "called_aet": "dicom_called_aet",
    "association_id": "dicom_association_id",
    "listener": "listener",
}
"""What the status shows of an open Association, and the log keys that have the same values."""
_shown_values = itemgetter(*_SHOWN.values())
_LONG_PDU: Final = "have the peer keep to the Maximum Length that it is told, or raise limits.max_pdu"


class AssociationReport:
    """The report of one Association, used only by its thread."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        listener: str,
        address: str,
        instances: bool,
        status_sink: StatusSink,
        audit: AssociationAudit | None = None,
    ) -> None:
        """With `instances`, each stored instance gets a log line; failures always get one."""
        self._metrics = metrics
        self._status_sink = status_sink
        self._audit = audit
        self._series = metrics.listener(listener)
        self._peer = metrics.peer("")
        self._instances = instances
        self._bound: dict[str, Any] = {
            "dicom_association_id": f"{getrandbits(48):012x}",  # no secret: it needs no system call
            "dicom_peer": self._peer.name,
            "dicom_peer_address": address,
            "listener": listener,
        }
        self._log = _LOG  # replaced by a bound logger once the requestor is known
        self._began = time.monotonic()
        self._tls: dict[str, Any] = {}
        self._requested = False
        self._access: AccessDecision | None = None
        self._refusal_logged = False
        self._negotiated: Negotiated | None = None  # if it was accepted, as are the next two
        self._shown: AssociationStatus | None = None
        self._messages: MessageReport | None = None
        self._outcome: Outcome | None = None
        self._error = ""
        self._limit = ""  # that the peer exceeded
        self._abort: dict[str, Any] = {}

    # -- before TLS and DICOM ------------------------------------------------------------------------------------

    def forwarded(self, address: str) -> None:
        """Note that the connection is a balancer's, and that the peer is at `address`."""
        self._bound |= {"balancer": self._bound["dicom_peer_address"], "dicom_peer_address": address}

    def refused(self, reason: str, *, rule: str) -> None:
        """Report that the connection is closed before negotiation, by an access rule."""
        self._refusal_logged = True
        self._metrics.count_access_refusal(rule, audited=False)
        self._log.warning("connection refused", error=reason, rule=rule, **self._bound)

    # -- TLS -------------------------------------------------------------------------------------------------------

    def secured(self, session: Session) -> None:
        """Note that the TLS handshake has succeeded."""
        self._series.handshake("ok")
        self._tls = {"tls_version": session.version, "tls_cipher": session.cipher}
        if session.certificate_names:
            self._tls["certificate_names"] = session.certificate_names

    def not_secured(self, error: Exception, *, heard: bool) -> None:
        """Report that the TLS handshake failed or took too long. `heard`: the peer had sent something.

        A peer that closes without sending a byte only probed the port; and a handshake that dicomd ends hasn't failed.
        """
        if isinstance(error, WokenError):
            return
        timed_out = isinstance(error, TimedOutError)
        if timed_out or heard:
            self._series.handshake("timed_out" if timed_out else "failed")
            self._log.warning("TLS handshake failed", error=str(error), **self._bound)
            self._show_refusal(Refused.HANDSHAKE, str(error))
            if self._audit is not None:
                self._audit.refused(f"TLS handshake failed: {error}")
            self._refusal_logged = True

    def mismatched(self, spoken: Spoken, *, in_handshake: bool = False) -> None:
        """Report that the peer speaks another protocol than the listener, instead of a TLS handshake or a request."""
        if in_handshake:
            self._series.handshake("failed")
        self._series.mismatch(spoken)
        what = advice(spoken, self._bound["listener"])
        self._log.warning("protocol mismatch", spoken=spoken, advice=what, **self._bound)
        self._show_refusal(Refused.PROTOCOL, "protocol mismatch", what)
        if self._audit is not None:
            self._audit.refused(f"protocol mismatch: {spoken}")
        self._refusal_logged = True

    # -- the Association -------------------------------------------------------------------------------------------

    def requested(self, request: AssociateRequest) -> None:
        """Note a received A-ASSOCIATE-RQ."""
        self._requested = True
        self._began = time.monotonic()
        if self._audit is not None:
            self._audit.requested(request.calling_ae_title, request.called_ae_title)
        self._bound |= {"dicom_calling_aet": request.calling_ae_title, "dicom_called_aet": request.called_ae_title}

    def judged(self, access: AccessDecision) -> None:
        """Note who the requestor is, and what it may do."""
        self._access = access
        self._peer = self._metrics.peer(access.peer)
        self._bound["dicom_peer"] = self._peer.name
        self._log = bound_logger(self._bound)
        if access.refused_by:
            self._metrics.count_access_refusal(access.refused_by, audited=False)
        if (audited := access.audited) is not None:
            self._metrics.count_access_refusal(audited.key, audited=True)
            result, source, reason = audited.rejection.reason.codes
            self._log.warning(
                "association would be rejected",
                rule=audited.rule,
                result=result,
                source=source,
                reason=reason,
                advice=audited.rejection.advice,
            )

    def accepted(self, access: AccessDecision, negotiated: Negotiated) -> MessageReport:
        """Note that the Association is established, with whatever Presentation Contexts were agreed on.

        Returns the report of its messages.
        """
        self._negotiated = negotiated
        self._series.association_opened()
        self._shown = self._status_sink.open(dict(zip(_SHOWN, _shown_values(self._bound), strict=True)))
        self._messages = MessageReport(
            self._metrics,
            self._peer,
            access,
            log=self._log,
            association=self._shown,
            status_sink=self._status_sink,
            requestor=self._requestor(),
            audit=self._audit,
            instances=self._instances,
        )
        if not negotiated.contexts:
            self._show_refusal(Refused.CONTEXTS, "none of the proposed presentation contexts was accepted")
            self._log.warning(
                "no presentation context accepted",
                implementation_version_name=negotiated.implementation_version_name,
                contexts=named_contexts(negotiated.refused, proposed=negotiated.proposed, refused=negotiated.proposed),
            )
        return self._messages

    def rejected(self, rejection: Rejection, judge: Callable[[], Unanswered]) -> None:
        """Report that an A-ASSOCIATE-RJ was sent; `judge` says what the peer proposed, and what it would have got.

        It is called only if the line is written, so that strangers can't cause work that nobody sees.
        """

        def proposed() -> dict[str, Any]:
            wanted = judge()
            contexts = named_contexts(wanted.contexts, proposed=wanted.proposed, refused=wanted.refused)
            return {"contexts_proposed": wanted.proposed, "contexts": contexts}

        self._refusal_logged = True
        result, source, reason = rejection.reason.codes
        self._metrics.count_reject(source, reason)
        self._metrics.count_limit(rejection.limit)
        if self._audit is not None and result == RejectResult.PERMANENT:  # a transient one may succeed in a minute
            self._audit.refused(rejection.advice)
        self._log.warning(
            Message.ASSOCIATION_REJECTED,
            rule=self._access.rule if self._access is not None else "",
            result=result,
            source=source,
            reason=reason,
            advice=rejection.advice,
            **self._tls,
            **{LATER: proposed},
        )
        self._show_refusal(Refused.ASSOCIATION, f"rejected {rejection.reason}", rejection.advice)

    def aborted(self, direction: Literal["sent", "received"], source: int, reason: int) -> None:
        """Note an A-ABORT sent or received (PS3.8 Table 9-26); the first one says why the Association ended."""
        self._metrics.count_abort(direction, source, reason)
        if not self._abort:
            self._abort = {"direction": direction, "source": int(source), "reason": int(reason)}

    def outcome(self, outcome: Outcome, error: Exception | str = "") -> None:
        """Note how it ends. Only the first call counts, since all later trouble follows from it."""
        if self._outcome is None:
            self._outcome = outcome
            self._error = str(error)
            self._limit = getattr(error, "limit", "")
            self._metrics.count_limit(self._limit)

    def ended(self) -> None:
        """Count the Association and write its line, after the connection was closed."""
        if self._shown is not None:
            self._shown.close()
        if self._audit is not None:
            self._audit.ended()
        outcome = self._outcome or Outcome.CONNECTION_LOST
        seconds = time.monotonic() - self._began
        if not self._requested:
            if not self._refusal_logged:
                # A probe, a port scanner, or a peer with another protocol: there was no Association to be counted.
                self._log.info(
                    "connection without association", outcome=outcome, error=self._error, **self._tls, **self._bound
                )
            return
        if self._access is None:  # it ended before the requestor was known
            self._log = bound_logger(self._bound)
        self._series.association_ended(outcome, duration=seconds, opened=self._negotiated is not None)
        self._status_sink.count(associations=1, rejected=outcome is Outcome.REJECTED)
        if outcome is not Outcome.RELEASED:
            self._peer.failed(outcome)
        if not self._refusal_logged:
            log = self._log.info if outcome is Outcome.RELEASED else self._log.warning
            log(Message.ASSOCIATION_ENDED, **self._summary(outcome, seconds))

    def _summary(self, outcome: Outcome, seconds: float) -> dict[str, Any]:
        messages = self._messages
        negotiated = self._negotiated
        numbers: dict[str, Any] = {
            "outcome": str(outcome),
            "instances": 0 if messages is None else messages.stored,
            "failures": 0 if messages is None else messages.failed,
            "dicom_bytes": 0 if messages is None else messages.received_bytes,
            "dicom_duration_usec": int(seconds * 1e6),
        }
        fields: dict[str, Any] = {PRESANITIZED: numbers}
        if self._error:
            fields["error"] = self._error
        if self._limit == "max_pdu":
            fields["advice"] = _LONG_PDU
        if negotiated is not None:
            numbers["contexts_accepted"] = len(negotiated.contexts)
            numbers["contexts_proposed"] = negotiated.proposed
            fields["implementation_version_name"] = negotiated.implementation_version_name
            if negotiated.kept and negotiated.contexts:
                refused = negotiated.proposed - len(negotiated.contexts)
                fields["contexts"] = named_contexts(negotiated.refused, proposed=refused, refused=refused)
            if negotiated.skipped:
                fields["skipped"] = list(negotiated.skipped)
        return fields | self._tls | self._abort

    def internal_error(self, module: str, error: BaseException) -> None:
        """Report an unexpected exception."""
        self._metrics.count_internal_error(module)
        bound_logger(self._bound).error(Message.INTERNAL_ERROR, module=module, exception=error)

    def _show_refusal(self, what: Refused, why: str, advice: str = "") -> None:
        self._status_sink.refused(what, why=why, advice=advice, **self._requestor())

    def _requestor(self) -> dict[str, str]:
        """Who the requestor is, as far as it is known, in the words of `StatusSink.refused`."""
        return {
            "peer": self._peer.name,
            "address": self._bound["dicom_peer_address"],
            "calling": self._bound.get("dicom_calling_aet", ""),
            "called": self._bound.get("dicom_called_aet", ""),
            "listener": self._bound["listener"],
        }
