"""Reads the files of [tls] and describes what they contain.

OpenSSL decides whether a file can be used, since OpenSSL is what serves with it; `cryptography` then says what the
file contains.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dicomd.private_keys import refuse_passphrase

_SERVER_PURPOSES: Final = frozenset((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A server's certificate. Times are seconds since the epoch.

    `issuer_present`: whether the file also contains the issuer's certificate, which isn't needed if that is a root.
    """

    subject: str
    issuer: str
    not_before: float
    not_after: float
    self_signed: bool
    issuer_present: bool


class WrongPurposeError(ValueError):
    """The certificate is not meant for TLS servers (RFC 5280 §4.2.1.3 and §4.2.1.12)."""


def server_certificate(certificate: Path, key: Path) -> ServerCertificate:
    """Read the certificate and check that the key matches it. Its dates are not checked here.

    Raises OSError (including its subclasses `ssl.SSLError` and `EncryptedKeyError`) if OpenSSL can't serve with them,
    `WrongPurposeError` for a certificate that isn't meant for servers, and ValueError for one that can't be parsed.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password=refuse_passphrase)
    served, *others = x509.load_pem_x509_certificates(certificate.read_bytes())
    _check_purpose(served)
    return ServerCertificate(
        subject=_text(served.subject),
        issuer=_text(served.issuer),
        not_before=served.not_valid_before_utc.timestamp(),
        not_after=served.not_valid_after_utc.timestamp(),
        self_signed=served.subject == served.issuer,
        issuer_present=any(other.subject == served.issuer for other in others),
    )


def _check_purpose(certificate: x509.Certificate) -> None:
    """Apply the checks that OpenSSL's clients apply to a server's certificate (purpose "sslserver")."""
    try:
        extensions = certificate.extensions
    except x509.DuplicateExtension as error:
        raise ValueError(str(error)) from error
    try:
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        pass
    else:
        if not _SERVER_PURPOSES & set(purposes):
            raise WrongPurposeError("its extended key usage lacks serverAuth")
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not (usage.digital_signature or usage.key_encipherment or usage.key_agreement):
        raise WrongPurposeError("its key usage lacks digitalSignature, keyEncipherment and keyAgreement")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certification authority's certificate. `not_after` is in seconds since the epoch."""

    subject: str
    not_after: float


def authorities(path: Path) -> list[Authority]:
    """Return the authorities in a file.

    Raises OSError (including ssl.SSLError) if there is no certificate in it, and ValueError for a certificate that
    OpenSSL accepts but `cryptography` can't parse.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=path)
    found = [x509.load_der_x509_certificate(der) for der in context.get_ca_certs(binary_form=True)]
    return [Authority(_text(one.subject), one.not_valid_after_utc.timestamp()) for one in found]


def holds_certificate(path: Path) -> bool:
    """Whether a file contains a certificate, of an authority or not."""
    try:
        authorities(path)
    except (OSError, ValueError):
        return False
    return True


def _text(name: x509.Name) -> str:
    """Return a distinguished name as `CN=…, O=…`, in the order of the certificate."""
    return ", ".join(f"{part.rfc4514_attribute_name}={part.value!s}" for part in name) or "(no name)"


_ARMOUR: Final = (b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----")


def revocation_due(path: Path) -> float | None:
    """Return when the first revocation list in a file is due for renewal. From then on OpenSSL rejects every peer.

    In seconds since the epoch; None if no list has a nextUpdate. Raises OSError, and ValueError if there is no list.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=path)
    if not context.cert_store_stats()["crl"]:
        raise ValueError("no revocation list")
    begin, end = _ARMOUR
    blocks = [block.partition(end)[0] for block in path.read_bytes().split(begin)[1:]]
    due = [x509.load_pem_x509_crl(begin + block + end).next_update_utc for block in blocks]
    return min((moment.timestamp() for moment in due if moment is not None), default=None)


def day(seconds: float) -> str:
    """Format a time for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
