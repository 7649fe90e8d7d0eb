"""Reports connections before there is an Association.

Invariant: a connection that is closed before negotiation is reported here, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable

from dicomd.audit.transfers import AssociationAudit
from dicomd.net.status_sink import Refused, StatusSink
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.metrics import Metrics


class ConnectionReport:
    """Counts the connections of all listeners, and reports those that are refused."""

    def __init__(
        self, metrics: Metrics, status_sink: StatusSink, audit: Callable[[str], AssociationAudit] | None = None
    ) -> None:
        """`audit` begins the audit of a source address; None if nothing is audited."""
        self._metrics = metrics
        self._status_sink = status_sink
        self._audit = audit
        self._log = get_logger()

    def connected(self, listener: str) -> None:
        """Count an accepted TCP connection."""
        self._metrics.listener(listener).connected()

    def refused(self, listener: str, address: str, reason: str, *, rule: str = "", limit: str = "") -> None:
        """Report a connection closed before negotiation: by an access `rule`, a `limit`, or for lack of resources."""
        if self._audit is not None and rule:
            self._audit(address).refused(reason)
        if rule:
            self._metrics.count_access_refusal(rule, audited=False)
        self._metrics.count_limit(limit)
        fields = {"rule": rule} if rule else {"limit": limit} if limit else {}
        self._log.warning("connection refused", listener=listener, dicom_peer_address=address, error=reason, **fields)
        self._status_sink.refused(Refused.CONNECTION, why=reason, address=address, listener=listener)

    def accept_failed(self, listener: str, error: OSError) -> None:
        """Report that the listener couldn't accept."""
        self._log.error("accept failed", listener=listener, error=error.strerror or str(error))
