"""The TLS of a configuration: what its listeners offer, made once for all workers of a generation, until when it lasts.

The rule it keeps: the files are read when the configuration is, before anything of it comes into force. So files that
can't serve leave the old ones in force, and a worker that is replaced later serves as the others of its generation do.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from dicomd.config.certificates import day, revocation_due, server_certificate
from dicomd.config.schema import Config
from dicomd.config.tls import SOON
from dicomd.net.tls import TlsSettings, reason, server_context
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.metrics import Metrics

_DAY = 86400.0  # seconds


class UnusableTlsError(Exception):
    """The files of [tls] can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class ListenersTls:
    """What the TLS listeners offer. Times are seconds since the epoch."""

    context: ssl.SSLContext
    listeners: tuple[str, ...]
    certificate: Path
    not_after: float
    crl: Path | None
    revocation_due: float | None


def prepare(config: Config) -> ListenersTls | None:
    """Read the files for the TLS listeners of `config`; None where there are none. Raises `UnusableTlsError`."""
    listeners = tuple(listener.name for listener in config.listen if listener.tls)
    if not listeners:
        return None
    tls = config.tls
    settings = TlsSettings(
        certificate=tls.certificate,
        key=tls.key,
        client_ca=tls.client_ca,
        client_certificate=tls.client_certificate_policy,
        crl=tls.crl,
        profile=tls.profile,
    )
    try:
        return ListenersTls(
            context=server_context(settings),
            listeners=listeners,
            certificate=tls.certificate,
            not_after=server_certificate(tls.certificate, tls.key).not_after,
            crl=tls.crl,
            revocation_due=revocation_due(tls.crl) if tls.crl is not None else None,
        )
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or str(error)
        raise UnusableTlsError(f"tls: {why} (`dicomd check-config` looks at each file)") from error


class ExpiryWatch:
    """Shows when the certificate in force ends, and says so once a day when that is soon."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tls: ListenersTls | None = None
        self._due = 0.0

    def in_force(self, tls: ListenersTls | None) -> None:
        """A configuration has come into force, which was warned about then."""
        self._tls, self._due = tls, time.monotonic() + _DAY
        if tls is not None:
            for listener in tls.listeners:
                self._metrics.tls_certificate_not_after.labels(listener).set(tls.not_after)

    def tend(self, now: float) -> None:
        """Warn if it is time to; `now` is on the monotonic clock."""
        if self._tls is None or now < self._due:
            return
        self._due = now + _DAY
        _warn("certificate", self._tls.certificate, self._tls.not_after)
        if self._tls.crl is not None and self._tls.revocation_due is not None:
            _warn("revocation list", self._tls.crl, self._tls.revocation_due)


def _warn(what: str, path: Path, ends: float) -> None:
    left = ends - time.time()
    if left >= SOON:
        return
    said = {"detail": f"the {what} {path}, on {day(ends)}", "days": int(left // _DAY)}
    if left < 0:
        get_logger().error("TLS file has expired", **said)
    else:
        get_logger().warning("TLS file expires soon", **said)
