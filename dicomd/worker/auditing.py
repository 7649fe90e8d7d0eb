"""The audit trail of a worker, from its configuration: off, or a trail with the spool and the server that were set.

The rule it keeps: the daemon's start and its stop are each told by one worker, for all of them.
"""

from __future__ import annotations

from dicomd.audit.events import ApplicationActivity, now
from dicomd.audit.syslog import SyslogServer
from dicomd.audit.trail import AuditTrail
from dicomd.audit.transfers import AssociationAudit
from dicomd.config.schema import Config
from dicomd.ipc.worker_slot import WorkerSlot
from dicomd.store.filesystem import OWN_FOLDER
from dicomd.telemetry.metrics import Metrics

_DELIVERY_TIMEOUT = 3.0
"""Seconds for the last messages, when a worker ends: those in the spool are sent on at the next start."""


class Auditing:
    """What a worker audits. `wanted` says whether anything is; the other methods do nothing otherwise."""

    def __init__(self, config: Config, metrics: Metrics, worker_slot: WorkerSlot) -> None:
        self.wanted = config.audit.wanted
        self._worker_slot = worker_slot
        self._trail = None
        if self.wanted:
            # Beside the instances it tells of: a file system that hangs holds up nobody there who wouldn't wait anyway.
            journal = config.storage.root.absolute() / OWN_FOLDER / "audit"
            self._trail = AuditTrail(metrics, spool=config.audit.spool, server=_server(config), journal=journal)

    def start(self) -> None:
        """Begin to deliver; in the process that serves."""
        if self._trail is not None:
            self._trail.start()
            if self._worker_slot.tells_start():
                self._trail.record(ApplicationActivity(now(), started=True))

    def association(self, address: str) -> AssociationAudit:
        """Begin the audit of a connection from an address. Raises RuntimeError where nothing is audited."""
        if self._trail is None:
            raise RuntimeError("nothing is audited")
        return AssociationAudit(self._trail.record, address, self._trail.journal)

    def end(self) -> None:
        """Let what has been recorded get on its way, for some seconds."""
        if self._trail is not None:
            if self._worker_slot.tells_stop():
                self._trail.record(ApplicationActivity(now(), started=False))
            self._trail.end(_DELIVERY_TIMEOUT)


def _server(config: Config) -> SyslogServer | None:
    """A dicomd that speaks TLS to its peers shows the same certificate to a syslog server that asks for one."""
    syslog = config.audit.syslog
    if syslog is None:
        return None
    speaks_tls = any(listener.tls for listener in config.listen)
    certificate = (config.tls.certificate, config.tls.key) if speaks_tls else None
    return SyslogServer(str(syslog.host), syslog.port, config.audit.syslog_ca, certificate)
