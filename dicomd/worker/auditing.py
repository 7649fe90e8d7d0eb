"""The audit trail of a worker: off, or with the spool and the syslog server that its configuration names.

Invariant: the daemon's start and its stop are each recorded by exactly one worker, on behalf of all.
"""

from __future__ import annotations

from dicomd.audit.events import ApplicationActivity, now
from dicomd.audit.syslog import SyslogServer
from dicomd.audit.trail import AuditTrail
from dicomd.audit.transfers import AssociationAudit
from dicomd.config.schema import Config
from dicomd.ipc.worker_slot import WorkerSlot
from dicomd.store.folders import OWN_FOLDER
from dicomd.telemetry.metrics import Metrics

_DELIVERY_TIMEOUT = 3.0
"""Seconds to deliver the last messages when a worker ends; those left in the spool are sent after the next start."""


class Auditing:
    """Records what a worker has to audit. If `wanted` is false, nothing is, and `start` and `end` do nothing."""

    def __init__(self, config: Config, metrics: Metrics, worker_slot: WorkerSlot) -> None:
        self.wanted = config.audit.wanted
        self._worker_slot = worker_slot
        self._trail = None
        if self.wanted:
            # The journal is kept beside the instances it is about: if that file system hangs, the only threads that
            # wait for it are those that would wait for the store anyway.
            journal = config.storage.root.absolute() / OWN_FOLDER / "audit"
            self._trail = AuditTrail(metrics, spool=config.audit.spool, server=_server(config), journal=journal)

    def start(self) -> None:
        """Begin to deliver messages. Must be called after the fork, in the worker itself."""
        if self._trail is not None:
            self._trail.start()
            if self._worker_slot.tells_start():
                self._trail.record(ApplicationActivity(now(), started=True))

    def association(self, address: str) -> AssociationAudit:
        """Begin the audit of a connection from an address. Raises RuntimeError if nothing is audited."""
        if self._trail is None:
            raise RuntimeError("nothing is audited")
        return AssociationAudit(self._trail.record, address, self._trail.journal)

    def end(self) -> None:
        """Deliver what has been recorded, waiting at most `_DELIVERY_TIMEOUT` seconds."""
        if self._trail is not None:
            if self._worker_slot.tells_stop():
                self._trail.record(ApplicationActivity(now(), started=False))
            self._trail.end(_DELIVERY_TIMEOUT)


def _server(config: Config) -> SyslogServer | None:
    """Return the configured syslog server. If listeners use TLS, it gets their certificate if it asks for one."""
    syslog = config.audit.syslog
    if syslog is None:
        return None
    speaks_tls = any(listener.tls for listener in config.listen)
    certificate = (config.tls.certificate, config.tls.key) if speaks_tls else None
    return SyslogServer(str(syslog.host), syslog.port, config.audit.syslog_ca, certificate)
