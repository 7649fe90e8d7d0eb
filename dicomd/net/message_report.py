"""Reports the messages of one established Association: their counters, and one log line for each instance.

Invariant: no patient data is passed on, and a response that didn't reach the socket isn't counted as one.

What happens is passed to metrics, log, status and audit by direct calls, and not as events with four subscribers: this
code runs for each instance, and docs/architecture.md has the figures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from dicomd.audit.transfers import AssociationAudit
from dicomd.dimse.commands import CommandField, Response
from dicomd.layouts import UNFILED
from dicomd.net.access import AccessDecision
from dicomd.net.instance_audit import audit_not_stored, audit_stored
from dicomd.net.status_sink import AssociationStatus, Refused, StatusSink
from dicomd.net.store_advice import KEPT_UNFILED, advice, may_not
from dicomd.services.operations import EVERYTHING, Operation
from dicomd.services.storage import StoreOperation
from dicomd.statuses import Status
from dicomd.telemetry.logs import UNBOUNDED, Logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics, PeerSeries
from dicomd.telemetry.render import PRESANITIZED


class MessageReport:
    """The report of the messages of one Association, used only by its thread."""

    def __init__(
        self,
        metrics: Metrics,
        peer: PeerSeries,
        access: AccessDecision,
        *,
        log: Logger,
        association: AssociationStatus,
        status_sink: StatusSink,
        requestor: Mapping[str, str],
        audit: AssociationAudit | None,
        instances: bool,
    ) -> None:
        """`requestor` describes the peer to `status_sink`, and `log` has its fields bound.

        With `instances`, each stored instance gets a log line; failures always get one.
        """
        self._metrics = metrics
        self._peer = peer
        self._access = access
        self._unrestricted = access.audited is not None or access.configured_rights == EVERYTHING
        self._exceeded_rights: set[str] = set()
        self._log = log
        self._association = association
        self._status_sink = status_sink
        self._requestor = requestor
        self._audit = audit
        self._instances = instances
        self._began = 0.0
        self.stored = 0
        """Instances answered with success."""
        self.failed = 0
        """Instances that were refused, or not received completely."""
        self.received_bytes = 0
        """Bytes of the Data Sets of all instances, stored or not."""

    def started(self) -> None:
        """Note that a request's Command Set is complete."""
        self._began = time.monotonic()

    def resumed(self, began: float) -> None:
        """Report next on the request that started at `began` (monotonic clock): others have started since."""
        self._began = began

    def before_answer(self, operation: Operation) -> None:
        """Audit what a request has stored, before its response is sent."""
        if self._audit is not None:
            audit_stored(self._audit, operation)

    def answered(self, operation: Operation, command_field: int, response: Response, *, sent: bool) -> None:
        """Report a request that was served; `sent` is whether its response could be sent."""
        if isinstance(operation, StoreOperation):
            if not self._unrestricted:
                self._check_right("store")
            self._store_answered(operation, response, sent=sent)
            return
        is_echo = command_field == CommandField.C_ECHO_RQ
        if is_echo:
            self._check_right("echo")
        if sent:
            self._metrics.count_response("C-ECHO-RSP" if is_echo else "other", response.status)

    def interrupted(self, operation: Operation) -> None:
        """Report that the Association ended in the middle of a message."""
        if isinstance(operation, StoreOperation):
            self.failed += 1
            self.received_bytes += operation.size
            self._metrics.store_received_bytes.inc(operation.size)
            self._count_failure(operation)
            if self._audit is not None:
                audit_not_stored(self._audit, operation, "rejected")
            self._log.warning(
                "instance incomplete",
                dicom_sop_class_uid=operation.identity.sop_class_uid,
                dicom_sop_instance_uid=operation.identity.sop_instance_uid,
                dicom_bytes=operation.size,
            )

    def _check_right(self, right: Literal["echo", "store"]) -> None:
        """Count a request that the peer's rule doesn't allow, refused or not, and log it once per Association."""
        access = self._access
        if self._unrestricted or getattr(access.configured_rights, right):
            return
        passed = getattr(access.rights, right)
        self._metrics.count_access_refusal("peers.allow", audited=passed)
        if right not in self._exceeded_rights:
            self._exceeded_rights.add(right)
            if self._audit is not None and not passed:
                self._audit.refused(f"the peer may not {right}")
            event = "request would be refused" if passed else "request refused"
            self._log.warning(event, rule=f"{access.rule}.allow", advice=may_not(right, access.rule))

    def _store_answered(self, operation: StoreOperation, response: Response, *, sent: bool) -> None:
        seconds = time.monotonic() - self._began
        stored = operation.stored
        size = operation.size
        status = response.status
        succeeded = status == Status.SUCCESS
        sync, duplicate = (0.0, "") if stored is None else (stored.sync_seconds, stored.duplicate)
        refusal = None if stored is None else stored.refusal
        self.received_bytes += size
        if sent:
            self._metrics.store_finished(self._peer, status, received=size, duration=seconds, sync=sync or None)
            self._association.answered(stored=succeeded, size=size)
        if not succeeded:
            if status == Status.OBJECT_TOO_LARGE:
                self._metrics.count_limit("max_object_size")
            if operation.error is not None and operation.error.operation == UNFILED:
                self._metrics.count_limit(UNFILED)
            if status == Status.DUPLICATE_REJECTED:
                duplicate = "rejected"
            self._count_failure(operation)
        if duplicate:
            self._metrics.store_duplicates.labels(duplicate).inc()
        if stored is None and self._audit is not None:
            audit_not_stored(self._audit, operation, duplicate)
        if succeeded:
            self.stored += 1
            if not self._instances and sent and refusal is None:
                return
        else:
            self.failed += 1
        identity = operation.identity
        fields: dict[str, Any] = {
            "dicom_sop_class_uid": identity.sop_class_uid,
            "dicom_sop_instance_uid": identity.sop_instance_uid,
            "dicom_transfer_syntax_uid": identity.transfer_syntax_uid,
            "dicom_status": str(status),
            "dicom_bytes": size,
            "dicom_duration_usec": int(seconds * 1e6),
        }
        if sync:
            fields["sync_usec"] = int(sync * 1e6)
        if duplicate:
            fields["duplicate"] = duplicate
        if not sent:
            fields["detail"] = "the response could not be sent"
        if stored is not None and refusal is not None:
            self._kept_unfiled(stored.name, f"{refusal.status} {refusal.message}", fields)
            return
        if succeeded:
            if duplicate == "identical":  # repeated endlessly, it fills no disk, but its lines would
                self._log.info(Message.INSTANCE_STORED, **{PRESANITIZED: fields})
            else:
                self._log.info(Message.INSTANCE_STORED, **{PRESANITIZED: fields, UNBOUNDED: True})
            return
        advised = advice(status, operation, self._access.rule)
        if advised:
            fields["advice"] = advised
        self._status_sink.refused(
            Refused.INSTANCE, why=f"{status} {response.comment}", advice=advised, **self._requestor
        )
        error = operation.error
        if error is not None:
            fields |= {"operation": error.operation, "errno": error.errno}
            if error.path:
                fields["path"] = error.path
        self._log.warning(Message.STORE_FAILED, error_comment=response.comment, **fields)

    def _kept_unfiled(self, path: str, why: str, fields: dict[str, Any]) -> None:
        """Report an instance that was kept at `path` instead of being refused, whatever `log.instances` says."""
        self._metrics.store_unfiled.inc()
        self._status_sink.count(unfiled=1)
        self._status_sink.refused(Refused.UNFILED, why=why, advice=KEPT_UNFILED, **self._requestor)
        fields |= {"refusal": why, "path": path, "advice": KEPT_UNFILED}
        if fields.get("duplicate") == "identical":
            self._log.warning(Message.INSTANCE_UNFILED, **fields)
        else:
            self._log.warning(Message.INSTANCE_UNFILED, **fields, **{UNBOUNDED: True})

    def _count_failure(self, operation: StoreOperation) -> None:
        """Count what went wrong on our side, however the Association ends."""
        if operation.error is not None and operation.error.operation:
            self._metrics.count_store_error(operation.error.operation, operation.error.errno)
        if operation.unexpected is not None:
            self._metrics.count_internal_error("store")
            self._log.error(Message.INTERNAL_ERROR, module="store", exception=operation.unexpected)


class SharedMessageReport:
    """The report of an Association whose operations end in several threads: one of them at a time makes use of it.

    So what it reports to (the audit, the Association's row in the status) still has one writer at a time.
    """

    def __init__(self, report: MessageReport) -> None:
        self._report = report
        self._using = threading.Lock()
        self.began = 0.0
        """When the last request started, on the monotonic clock. For the Association's thread."""

    def started(self) -> None:
        """Note that a request's Command Set is complete."""
        self.began = time.monotonic()

    def before_answer(self, operation: Operation) -> None:
        """See `MessageReport`."""
        with self._using:
            self._report.before_answer(operation)

    def answered(
        self, operation: Operation, command_field: int, response: Response, *, sent: bool, began: float = 0.0
    ) -> None:
        """Report a request that started at `began`."""
        with self._using:
            self._report.resumed(began)
            self._report.answered(operation, command_field, response, sent=sent)

    def interrupted(self, operation: Operation) -> None:
        """See `MessageReport`."""
        with self._using:
            self._report.interrupted(operation)
