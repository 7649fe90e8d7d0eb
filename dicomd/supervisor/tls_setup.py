"""The TLS context of a configuration's listeners, created once for all workers of a generation, and its expiry.

Invariant: the files are read together with the configuration, before any of it comes into force. So unusable files
leave the old ones in force, and a worker that is replaced later serves with the same files as the rest of its
generation.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dicomd.config.certificates import day, revocation_due, server_certificate
from dicomd.config.schema import Config
from dicomd.config.tls import SOON
from dicomd.net.tls import TlsSettings, reason, server_context
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.metrics import Metrics

_DAY = 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The contents (PEM) of the files named in [tls], as they were read. Times are seconds since the epoch."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    crl: bytes | None
    not_after: float
    revocation_due: float | None


class UnusableTlsError(Exception):
    """The files named in [tls] can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class ListenersTls:
    """The TLS context of the listeners, and when its files expire. Times are seconds since the epoch."""

    context: ssl.SSLContext
    listeners: tuple[str, ...]
    certificate: Path
    not_after: float
    crl: Path | None
    revocation_due: float | None


def read_files(config: Config) -> TlsFiles | None:
    """Read the files for the TLS listeners of `config`; None if it has none. Raises `UnusableTlsError`."""
    if not any(listener.tls for listener in config.listen):
        return None
    tls = config.tls
    try:
        files = TlsFiles(
            certificate=tls.certificate.read_bytes(),
            key=tls.key.read_bytes(),
            client_ca=tls.client_ca.read_bytes() if tls.client_ca is not None else None,
            crl=tls.crl.read_bytes() if tls.crl is not None else None,
            not_after=0.0,
            revocation_due=None,
        )
        with _in_memory(files) as at:
            server_context(_settings(config, at))
            certificate = server_certificate(at.certificate, at.key)
            due = revocation_due(at.crl) if at.crl is not None else None
    except (OSError, ValueError) as error:
        raise _unusable(error) from error
    return replace(files, not_after=certificate.not_after, revocation_due=due)


def prepare(config: Config, files: TlsFiles | None) -> ListenersTls | None:
    """Create the TLS context from files that have been read. No path is accessed, so nothing can hang.

    Returns None if there are no TLS listeners. Raises `UnusableTlsError`.
    """
    if files is None:
        return None
    try:
        with _in_memory(files) as at:
            context = server_context(_settings(config, at))
    except (OSError, ValueError) as error:
        raise _unusable(error) from error
    return ListenersTls(
        context=context,
        listeners=tuple(listener.name for listener in config.listen if listener.tls),
        certificate=config.tls.certificate,
        not_after=files.not_after,
        crl=config.tls.crl,
        revocation_due=files.revocation_due,
    )


@dataclass(frozen=True, slots=True)
class _Paths:
    certificate: Path
    key: Path
    client_ca: Path | None
    crl: Path | None


@contextmanager
def _in_memory(files: TlsFiles) -> Iterator[_Paths]:
    """Yield paths to copies in memory, since Python's ssl module reads keys and revocation lists only from paths."""
    with ExitStack() as stack:

        def path(content: bytes) -> Path:
            file = stack.enter_context(os.fdopen(os.memfd_create("dicomd-tls", os.MFD_CLOEXEC), "wb"))
            file.write(content)
            file.flush()
            return Path(f"/proc/self/fd/{file.fileno()}")

        yield _Paths(
            certificate=path(files.certificate),
            key=path(files.key),
            client_ca=path(files.client_ca) if files.client_ca is not None else None,
            crl=path(files.crl) if files.crl is not None else None,
        )


def _settings(config: Config, at: _Paths) -> TlsSettings:
    return TlsSettings(
        certificate=at.certificate,
        key=at.key,
        client_ca=at.client_ca,
        client_certificate=config.tls.client_certificate_policy,
        crl=at.crl,
        profile=config.tls.profile,
    )


def _unusable(error: Exception) -> UnusableTlsError:
    why = reason(error) if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or str(error)
    return UnusableTlsError(f"tls: {why} (`dicomd check-config` checks each file)")


class ExpiryWatch:
    """Shows when the certificate in force expires, and logs a warning once a day when that is soon."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tls: ListenersTls | None = None
        self._due = 0.0

    def in_force(self, tls: ListenersTls | None) -> None:
        """Watch the files of a configuration that has come into force, whose own warnings have just been logged."""
        self._tls = tls
        self._due = time.monotonic() + _DAY
        if tls is not None:
            for listener in tls.listeners:
                self._metrics.tls_certificate_not_after.labels(listener).set(tls.not_after)

    def tend(self, now: float) -> None:
        """Log a warning if one is due; `now` is on the monotonic clock."""
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
