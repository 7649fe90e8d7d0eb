"""Reports an Association: its counters, and its log lines, one for itself and one for each instance.

Invariant: no patient data is passed on, and the figures count only what was really sent: a response that didn't reach
the socket isn't counted as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Literal

from dicomd.audit.transfers import AssociationAudit
from dicomd.dimse.commands import CommandField, Response
from dicomd.net.access import AccessDecision
from dicomd.net.audited import not_stored
from dicomd.net.contexts import named_contexts
from dicomd.net.deadlines import TimedOutError
from dicomd.net.rejection import Rejection
from dicomd.net.status_sink import AssociationStatus, NoStatusSink, Refused, StatusSink
from dicomd.net.transport import Session, WokenError
from dicomd.outcomes import Outcome
from dicomd.rejections import RejectResult
from dicomd.services.operations import EVERYTHING, Operation
from dicomd.services.storage import StoreOperation
from dicomd.statuses import Status
from dicomd.telemetry.logs import LATER, UNBOUNDED, bound_logger, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.render import PRESANITIZED
from dicomd.upperlayer.negotiation import AssociateRequest, Negotiated, Unanswered

_LOG = get_logger()
_STATUS_TEXTS = {status: str(status) for status in Status}  # made once: formatting an Enum takes a microsecond
_SUCCESS = Status.SUCCESS
_RESPONSES = {int(CommandField.C_STORE_RQ): "C-STORE-RSP", int(CommandField.C_ECHO_RQ): "C-ECHO-RSP"}


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
        self._metrics, self._status_sink = metrics, status_sink
        self.audit = self._audit = audit
        self._row: AssociationStatus = NoStatusSink()
        self._series = metrics.listener(listener)
        self._peer = metrics.peer("")
        self._instances = instances
        self._bound: dict[str, Any] = {
            "dicom_association_id": os.urandom(6).hex(),
            "dicom_peer": self._peer.name,
            "dicom_peer_address": address,
            "listener": listener,
        }
        self._log = _LOG  # replaced by a bound logger once the requestor is known
        self._began = time.monotonic()
        self._message_began = self._began
        self._requested = self._accepted = self._refusal_told = False
        self._outcome: Outcome | None = None
        self._error = ""
        self._abort: dict[str, Any] = {}
        self._negotiated: Negotiated | None = None
        self._tls: dict[str, Any] = {}
        self._verdict: AccessDecision | None = None
        self._may_everything = False
        self._overstepped: set[str] = set()
        self._stored = self._failed = self._bytes = 0

    # -- before TLS and DICOM ------------------------------------------------------------------------------------

    def forwarded(self, address: str) -> None:
        """Note that the connection is a balancer's, and that the peer is at `address`."""
        self._bound |= {"balancer": self._bound["dicom_peer_address"], "dicom_peer_address": address}

    def refused(self, reason: str, *, rule: str) -> None:
        """Report that the connection is closed before negotiation, by an access rule."""
        self._refusal_told = True
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
            self._tell_refusal(Refused.HANDSHAKE, str(error))
            if self._audit is not None:
                self._audit.refused(f"TLS handshake failed: {error}")
            self._refusal_told = True

    # -- the Association -------------------------------------------------------------------------------------------

    def requested(self, request: AssociateRequest) -> None:
        """Note a received A-ASSOCIATE-RQ."""
        self._requested = True
        self._began = time.monotonic()
        if self._audit is not None:
            self._audit.requested(request.calling_ae_title, request.called_ae_title)
        self._bound |= {"dicom_calling_aet": request.calling_ae_title, "dicom_called_aet": request.called_ae_title}

    def judged(self, verdict: AccessDecision) -> None:
        """Note who the requestor is, and what it may do."""
        self._verdict = verdict
        self._may_everything = verdict.audited is not None or verdict.configured_rights == EVERYTHING
        self._peer = self._metrics.peer(verdict.peer)
        self._bound["dicom_peer"] = self._peer.name
        self._log = bound_logger(self._bound)
        if verdict.refused_by:
            self._metrics.count_access_refusal(verdict.refused_by, audited=False)
        if (audited := verdict.audited) is not None:
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

    def accepted(self, negotiated: Negotiated) -> None:
        """Note that the Association is established, with whatever Presentation Contexts were agreed on."""
        self._accepted = True
        self._negotiated = negotiated
        self._series.association_opened()
        shown = ("dicom_peer", "dicom_peer_address", "dicom_calling_aet", "dicom_called_aet", "dicom_association_id")
        self._row = self._status_sink.open(
            {key.removeprefix("dicom_"): self._bound[key] for key in shown} | {"listener": self._bound["listener"]}
        )
        if not negotiated.contexts:
            self._tell_refusal(Refused.CONTEXTS, "none of the proposed presentation contexts was accepted")
            self._log.warning(
                "no presentation context accepted",
                implementation_version_name=negotiated.implementation_version_name,
                contexts=named_contexts(negotiated.refused, proposed=negotiated.proposed, refused=negotiated.proposed),
            )

    def rejected(self, rejection: Rejection, judge: Callable[[], Unanswered]) -> None:
        """Report that an A-ASSOCIATE-RJ was sent; `judge` says what the peer proposed, and what it would have got.

        It is called only if the line is written, so that strangers can't cause work that nobody sees.
        """

        def proposed() -> dict[str, Any]:
            wanted = judge()
            contexts = named_contexts(wanted.contexts, proposed=wanted.proposed, refused=wanted.refused)
            return {"contexts_proposed": wanted.proposed, "contexts": contexts}

        self._refusal_told = True
        result, source, reason = rejection.reason.codes
        self._metrics.count_reject(source, reason)
        self._metrics.count_limit(rejection.limit)
        if self._audit is not None and result == RejectResult.PERMANENT:  # a transient one may succeed in a minute
            self._audit.refused(rejection.advice)
        self._log.warning(
            Message.ASSOCIATION_REJECTED,
            rule=self._verdict.rule if self._verdict is not None else "",
            result=result,
            source=source,
            reason=reason,
            advice=rejection.advice,
            **self._tls,
            **{LATER: proposed},
        )
        self._tell_refusal(Refused.ASSOCIATION, f"rejected {rejection.reason}", rejection.advice)

    def aborted(self, direction: Literal["sent", "received"], source: int, reason: int) -> None:
        """Note an A-ABORT sent or received (PS3.8 Table 9-26); the first one says why the Association ended."""
        self._metrics.count_abort(direction, source, reason)
        if not self._abort:
            self._abort = {"direction": direction, "source": int(source), "reason": int(reason)}

    def outcome(self, outcome: Outcome, error: Exception | str = "") -> None:
        """Note how it ends. Only the first call counts, since all later trouble follows from it."""
        if self._outcome is None:
            self._outcome, self._error = outcome, str(error)
            self._metrics.count_limit(getattr(error, "limit", ""))

    def ended(self) -> None:
        """Count the Association and write its line, after the connection was closed."""
        self._row.close()
        if self._audit is not None:
            self._audit.ended()
        outcome = self._outcome or Outcome.CONNECTION_LOST
        seconds = time.monotonic() - self._began
        if not self._requested and not self._refusal_told:
            # A probe, a port scanner, or a peer with another protocol: there was no Association to be counted.
            self._log.info(
                "connection without association", outcome=outcome, error=self._error, **self._tls, **self._bound
            )
            return
        if not self._requested:
            return
        if self._verdict is None:  # it ended before the requestor was known
            self._log = bound_logger(self._bound)
        self._series.association_ended(outcome, duration=seconds, opened=self._accepted)
        self._status_sink.count(associations=1, rejected=outcome is Outcome.REJECTED)
        if outcome is not Outcome.RELEASED:
            self._peer.failed(outcome)
        if self._refusal_told:
            return
        fields: dict[str, Any] = {
            "outcome": outcome,
            "instances": self._stored,
            "failures": self._failed,
            "dicom_bytes": self._bytes,
            "dicom_duration_usec": int(seconds * 1e6),
        }
        if self._error:
            fields["error"] = self._error
        if self._negotiated is not None:
            fields["contexts_accepted"] = len(self._negotiated.contexts)
            fields["contexts_proposed"] = self._negotiated.proposed
            fields["implementation_version_name"] = self._negotiated.implementation_version_name
            if self._negotiated.kept and self._negotiated.contexts:
                refused = self._negotiated.proposed - len(self._negotiated.contexts)
                fields["contexts"] = named_contexts(self._negotiated.refused, proposed=refused, refused=refused)
        fields |= self._tls | self._abort
        log = self._log.info if outcome is Outcome.RELEASED else self._log.warning
        log(Message.ASSOCIATION_ENDED, **fields)

    # -- messages --------------------------------------------------------------------------------------------------

    def message_started(self) -> None:
        """Note that a request's Command Set is complete."""
        self._message_began = time.monotonic()

    def answered(self, operation: Operation, command_field: int, response: Response, *, sent: bool) -> None:
        """Report a request that was served; `sent` is whether its response could be sent."""
        if isinstance(operation, StoreOperation):
            if not self._may_everything:
                self._check_right("store")
            self._store_answered(operation, response, sent=sent)
            return
        if command_field == CommandField.C_ECHO_RQ:
            self._check_right("echo")
        if sent:
            self._metrics.count_response(_RESPONSES.get(command_field, "other"), response.status)

    def _check_right(self, right: Literal["echo", "store"]) -> None:
        """Count a request that the peer's rule doesn't allow, refused or not, and log it once per Association."""
        verdict = self._verdict
        if verdict is None or self._may_everything or getattr(verdict.configured_rights, right):
            return
        passed = getattr(verdict.rights, right)
        self._metrics.count_access_refusal("peers.allow", audited=passed)
        if right not in self._overstepped:
            self._overstepped.add(right)
            if self._audit is not None and not passed:
                self._audit.refused(f"the peer may not {right}")
            event = "request would be refused" if passed else "request refused"
            self._log.warning(
                event,
                rule=f"{verdict.rule}.allow",
                advice=f'the peer may not {right}: add "{right}" to {verdict.rule}.allow',
            )

    def interrupted(self, operation: Operation) -> None:
        """Report that the Association ended in the middle of a message."""
        if isinstance(operation, StoreOperation):
            self._failed += 1
            self._bytes += operation.size
            self._metrics.store_received_bytes.inc(operation.size)
            self._count_failure(operation)
            if self._audit is not None:
                not_stored(self._audit, operation, "rejected")
            self._log.warning(
                "instance incomplete",
                dicom_sop_class_uid=operation.identity.sop_class_uid,
                dicom_sop_instance_uid=operation.identity.sop_instance_uid,
                dicom_bytes=operation.size,
            )

    def _count_failure(self, operation: StoreOperation) -> None:
        """Count what went wrong on our side, however the Association ends."""
        if operation.error is not None and operation.error.operation:
            self._metrics.count_store_error(operation.error.operation, operation.error.errno)
        if operation.unexpected is not None:
            self.internal_error("store", operation.unexpected)

    def internal_error(self, module: str, error: BaseException) -> None:
        """Report an unexpected exception."""
        self._metrics.count_internal_error(module)
        bound_logger(self._bound).error(Message.INTERNAL_ERROR, module=module, exception=error)

    def _tell_refusal(self, what: Refused, why: str, advice: str = "") -> None:
        who = {
            name: str(self._bound.get(f"dicom_{key}", ""))
            for name, key in (
                ("peer", "peer"),
                ("address", "peer_address"),
                ("calling", "calling_aet"),
                ("called", "called_aet"),
            )
        }
        self._status_sink.refused(what, why=why, advice=advice, listener=str(self._bound["listener"]), **who)

    def _store_answered(self, operation: StoreOperation, response: Response, *, sent: bool) -> None:
        seconds = time.monotonic() - self._message_began
        stored, error, identity, size = operation.stored, operation.error, operation.identity, operation.size
        status = response.status
        succeeded = status is _SUCCESS
        sync, duplicate = (0.0, "") if stored is None else (stored.sync_seconds, stored.duplicate)
        self._bytes += size
        if sent:
            self._metrics.store_finished(self._peer, status, received=size, duration=seconds, sync=sync or None)
            self._row.answered(stored=succeeded, size=size)
        if not succeeded:
            if status is Status.OBJECT_TOO_LARGE:
                self._metrics.count_limit("max_object_size")
            if status is Status.DUPLICATE_REJECTED:
                duplicate = "rejected"
            self._count_failure(operation)
        if duplicate:
            self._metrics.store_duplicates.labels(duplicate).inc()
        if stored is None and self._audit is not None:
            not_stored(self._audit, operation, duplicate)
        if succeeded:
            self._stored += 1
            if not self._instances and sent:
                return
        else:
            self._failed += 1
        fields: dict[str, Any] = {
            "dicom_sop_class_uid": identity.sop_class_uid,
            "dicom_sop_instance_uid": identity.sop_instance_uid,
            "dicom_transfer_syntax_uid": identity.transfer_syntax_uid,
            "dicom_status": _STATUS_TEXTS[status],
            "dicom_bytes": size,
            "dicom_duration_usec": int(seconds * 1e6),
        }
        if sync:
            fields["sync_usec"] = int(sync * 1e6)
        if duplicate:
            fields["duplicate"] = duplicate
        if not sent:
            fields["detail"] = "the response could not be sent"
        if succeeded:
            if duplicate == "identical":  # repeated endlessly, it fills no disk, but its lines would
                self._log.info(Message.INSTANCE_STORED, **{PRESANITIZED: fields})
            else:
                self._log.info(Message.INSTANCE_STORED, **{PRESANITIZED: fields, UNBOUNDED: True})
            return
        self._tell_refusal(Refused.INSTANCE, f"{status} {response.comment}")
        if error is not None:
            fields |= {"operation": error.operation, "errno": error.errno}
            if error.path:
                fields["path"] = error.path
        self._log.warning(Message.STORE_FAILED, error_comment=response.comment, **fields)
