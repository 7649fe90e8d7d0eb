"""What the files of [tls] hold, read as a requestor would be shown it.

The rule: OpenSSL judges. A server's certificate is looked at by a handshake in memory with the files themselves, so
what is found here is what a peer will find; only the date of a revocation list, which Python's ssl doesn't tell, is
read from its bytes, and only after OpenSSL has accepted them.
"""

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_REVOCATION_LIST: Final = re.compile(r"-----BEGIN X509 CRL-----([^-]*)-----END X509 CRL-----")
_MOST_FLIGHTS: Final = 4  # TLS 1.2 takes two each way
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME, which ssl has no name for
_SEQUENCE, _INTEGER, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0x17, 0x18  # X.690


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What is known of a server's certificate. Times are seconds since the epoch.

    `issuer_present`: the certificate of its issuer is in the file, too. That of a root needn't be.
    """

    subject: str
    issuer: str
    not_before: float
    not_after: float
    self_signed: bool
    issuer_present: bool


def server_certificate(certificate: Path, key: Path) -> ServerCertificate:
    """Read the certificate and see that the key fits it. Raises OSError, ssl.SSLError among it, and ValueError.

    An `ssl.SSLCertVerificationError` means that it is none that a server may show; its dates don't matter here.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password=_refuse_passphrase)
    blocks = _CERTIFICATE.findall(certificate.read_text("ascii", errors="replace"))
    if not blocks:
        raise ValueError("no certificate in PEM")
    requestor = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    requestor.check_hostname = False
    requestor.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    requestor.load_verify_locations(cadata=blocks[0])
    shown = _shown(server, requestor)
    return ServerCertificate(
        subject=_name(shown["subject"]),
        issuer=_name(shown["issuer"]),
        not_before=ssl.cert_time_to_seconds(shown["notBefore"]),
        not_after=ssl.cert_time_to_seconds(shown["notAfter"]),
        self_signed=shown["subject"] == shown["issuer"],
        issuer_present=shown["issuer"] in _issuers("\n".join(blocks[1:])),
    )


class EncryptedKeyError(OSError):
    """The key has a passphrase."""


def _refuse_passphrase() -> str:
    raise EncryptedKeyError


def _shown(server: ssl.SSLContext, requestor: ssl.SSLContext) -> dict[str, Any]:
    """The server's certificate as the requestor has it after a handshake between the two."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting = server.wrap_bio(there, back, server_side=True)
    asking = requestor.wrap_bio(back, there)
    for side in (asking, accepting) * _MOST_FLIGHTS:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        if side is asking:
            return side.getpeercert() or {}
    raise ssl.SSLError("the handshake with itself doesn't end")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certification authority's certificate. `not_after` is in seconds since the epoch."""

    subject: str
    not_after: float


def authorities(path: Path) -> list[Authority]:
    """The authorities in a file. Raises OSError, ssl.SSLError among it, where there is no certificate in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=path)
    return [
        Authority(_name(one["subject"]), ssl.cert_time_to_seconds(str(one["notAfter"])))
        for one in context.get_ca_certs()
    ]


def holds_certificate(path: Path) -> bool:
    """Whether a file has a certificate in it, of an authority or not."""
    try:
        authorities(path)
    except (OSError, ValueError):
        return False
    return True


def _issuers(pem: str) -> list[Any]:
    """The distinguished names of the authorities in a text."""
    if not pem:
        return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    return [one["subject"] for one in context.get_ca_certs()]


def _name(parts: Any) -> str:
    """A distinguished name, as `CN=…, O=…` in the order of the certificate."""
    return ", ".join(f"{_SHORT.get(key, key)}={value}" for part in parts for key, value in part) or "(no name)"


_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
}


def revocation_due(path: Path) -> float | None:
    """When the first of the revocation lists in a file is due for renewal: after that OpenSSL refuses every peer.

    In seconds since the epoch; None where none says so. Raises OSError, and ValueError for what isn't a list.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=path)
    if not context.cert_store_stats()["crl"]:
        raise ValueError("no revocation list")
    due = []
    for text in _REVOCATION_LIST.findall(path.read_text("ascii", errors="replace")):
        block = f"-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----"  # ssl undoes the armour of these only
        found = _next_update(ssl.PEM_cert_to_DER_cert(block))
        if found is not None:
            due.append(found)
    return min(due, default=None)


def _next_update(der: bytes) -> float | None:
    """The nextUpdate of a CertificateList (RFC 5280 §5.1): the second of the two times in what is signed."""
    outer = _element(der, 0)
    body = _element(der, outer[1])
    times: list[float] = []
    at, end = body[1], body[2]
    while at < end and len(times) < 2:
        tag, start, at = _element(der, at)
        if tag in (_UTC_TIME, _GENERALIZED_TIME):
            times.append(_time(tag, der[start:at].decode("ascii")))
        elif times:
            break  # the revoked certificates: there is no nextUpdate
        elif tag not in (_SEQUENCE, _INTEGER):
            raise ValueError("not a revocation list")
    return times[1] if len(times) == 2 else None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the element at `at` (X.690 §8.1). Raises ValueError where there is none."""
    header = der[at : at + 2]
    if len(header) < 2:
        raise ValueError("cut off")
    tag, length = header
    start = at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size]), start + size
    if start + length > len(der):
        raise ValueError("cut off")
    return tag, start, start + length


def _time(tag: int, text: str) -> float:
    """A Time of RFC 5280 §4.1.2.5, in UTC; years of two digits from 50 on are those of the last century."""
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def day(seconds: float) -> str:
    """A moment as people write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
