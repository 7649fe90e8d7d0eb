"""Checks that the files of [tls] can be used, and warns of what an administrator should know about them.

What prevents TLS from working is an error; what keeps some peers out is a warning. An expired certificate or revocation
list is in between: a reload must not put it into use, but a restart with it must not make things worse than they are,
since peers that don't check dates are still served.
"""

import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dicomd.config.certificates import (
    ServerCertificate,
    WrongPurposeError,
    authorities,
    day,
    holds_certificate,
    revocation_due,
    server_certificate,
)
from dicomd.config.problems import Problem
from dicomd.config.schema import Tls
from dicomd.private_keys import EncryptedKeyError

SOON = 30 * 86400.0
"""How many seconds before the expiry of a certificate or a revocation list the warnings begin."""
_TOO_WEAK = frozenset(("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"))


Looking = Callable[[str, Path], None]
"""Called before a file or folder is accessed, with its key ("" for the configuration itself) and its path."""


def ignore_path(_key: str, _path: Path) -> None:
    """Do nothing, for a caller that may wait as long as a file system does."""


@dataclass(slots=True)
class Findings:
    """What was found. `lapsed` are errors to a reload, but only warnings at a start."""

    errors: list[Problem] = field(default_factory=list)
    lapsed: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def check_tls_files(file: str, tls: Tls, now: float, looking: Looking = ignore_path) -> Findings:
    """Check all files as of the time `now`, in seconds since the epoch; `file` is the configuration's name in problems.

    `looking` is called with the key and path of each file before it is read. Doesn't raise for bad files.
    """
    found = Findings()
    named = {"tls.certificate": tls.certificate, "tls.key": tls.key, "tls.client_ca": tls.client_ca, "tls.crl": tls.crl}
    unread = {}
    for key, path in named.items():
        if path is not None:
            looking(key, path)
            if problem := unreadable(file, key, path):
                unread[key] = problem
    found.errors.extend(unread.values())
    if not unread.keys() & {"tls.certificate", "tls.key"}:
        _server(file, tls, now, found)
    if tls.client_ca is not None and "tls.client_ca" not in unread:
        _authorities(file, tls.client_ca, now, found)
    if tls.crl is not None and "tls.crl" not in unread:
        _revocation(file, tls.crl, now, found)
    return found


def unreadable(file: str, key: str, path: Path) -> Problem | None:
    """Return the problem if the PEM file that the configuration names under `key` can't be read, else None."""
    try:
        with path.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        return Problem(file, key, f"{path} can't be read: {error.strerror}", "a PEM file that dicomd may read")
    return None


def _server(file: str, tls: Tls, now: float, found: Findings) -> None:
    """Check the certificate and its key, each by itself and then together."""
    try:
        if tls.key.stat().st_mode & stat.S_IRWXO:
            found.warnings.append(
                Problem(file, "tls.key", f"{tls.key} is accessible to every user", "mode 0640, group dicomd")
            )
        certificate = server_certificate(tls.certificate, tls.key)
    except EncryptedKeyError:
        wrong, expected = f"{tls.key} has a passphrase", "a key without one, since a daemon can't ask for it"
        found.errors.append(Problem(file, "tls.key", wrong, expected))
    except WrongPurposeError as error:
        wrong = f"{tls.certificate} is not valid as a server certificate: {error}"
        found.errors.append(Problem(file, "tls.certificate", wrong, "one that is meant for TLS servers"))
    except (ssl.SSLError, OSError) as error:
        found.errors.append(_no_pair(file, tls, getattr(error, "reason", "")))
    except ValueError as error:
        wrong = f"{tls.certificate} can't be read: {error}"
        found.errors.append(Problem(file, "tls.certificate", wrong, "a certificate that conforms to RFC 5280"))
    else:
        _dates(file, tls.certificate, certificate, now, found)
        found.warnings.extend(_trust(file, tls.certificate, certificate))


def _no_pair(file: str, tls: Tls, reason: str) -> Problem:
    if reason == "KEY_VALUES_MISMATCH":
        wrong = f"{tls.key} doesn't match {tls.certificate}"
        return Problem(file, "tls.key", wrong, "the key of this certificate, which has to be the first in its file")
    if reason in _TOO_WEAK:
        wrong = f"{tls.certificate} is too weak: {reason.lower().replace('_', ' ')}"
        return Problem(file, "tls.certificate", wrong, "RSA of 2048 bits or an elliptic curve, with SHA-256")
    if not holds_certificate(tls.certificate):
        wrong = f"{tls.certificate} contains no certificate"
        return Problem(file, "tls.certificate", wrong, "a PEM file that begins with the server's certificate")
    return Problem(file, "tls.key", f"{tls.key} contains no private key", "a PEM file with the private key")


def _dates(file: str, path: Path, certificate: ServerCertificate, now: float, found: Findings) -> None:
    key, renewed = "tls.certificate", "a certificate that is valid now"
    if now < certificate.not_before:
        wrong = f"{path} is not valid before {day(certificate.not_before)}"
        found.lapsed.append(Problem(file, key, wrong, f"{renewed}, and a correct clock"))
    elif now > certificate.not_after:
        found.lapsed.append(Problem(file, key, f"{path} expired on {day(certificate.not_after)}", renewed))
    elif now > certificate.not_after - SOON:
        found.warnings.append(Problem(file, key, f"{path} expires on {day(certificate.not_after)}", "renew it in time"))


def _trust(file: str, path: Path, certificate: ServerCertificate) -> Iterator[Problem]:
    key = "tls.certificate"
    if certificate.self_signed:
        wrong = f"{path} is self-signed: peers that verify certificates have to be configured to trust it"
        yield Problem(file, key, wrong, "one from an authority that they trust")
    elif not certificate.issuer_present:
        wrong = f"{path} lacks the certificate of its issuer, {certificate.issuer}: the chain may be incomplete"
        yield Problem(file, key, wrong, "the server's certificate followed by the intermediate ones")


def _authorities(file: str, path: Path, now: float, found: Findings) -> None:
    try:
        present = authorities(path)
    except (ssl.SSLError, OSError, ValueError):
        present = []
    if not present:
        wrong = f"{path} contains no usable certificate"
        found.errors.append(Problem(file, "tls.client_ca", wrong, "a PEM file of the authorities' certificates"))
    for one in present:
        if now > one.not_after:
            wrong = f"{path}: {one.subject} expired on {day(one.not_after)}: no certificate that it issued is accepted"
            found.warnings.append(Problem(file, "tls.client_ca", wrong, "the renewed certificate of the authority"))


def _revocation(file: str, path: Path, now: float, found: Findings) -> None:
    key, expected = "tls.crl", "a PEM file of certificate revocation lists"
    try:
        due = revocation_due(path)
    except (ssl.SSLError, OSError, ValueError):
        found.errors.append(Problem(file, key, f"{path} contains no usable revocation list", expected))
        return
    if due is None:
        return
    if now > due:
        wrong = f"{path} was due for renewal on {day(due)}: every peer that presents a certificate is rejected"
        found.lapsed.append(Problem(file, key, wrong, "the authority's current revocation list"))
    elif now > due - SOON:
        wrong = f"{path} is due for renewal on {day(due)}: then every peer that presents a certificate is rejected"
        found.warnings.append(Problem(file, key, wrong, "renew it in time"))
