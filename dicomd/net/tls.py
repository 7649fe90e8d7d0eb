"""TLS: what dicomd offers by profile, and a connection that speaks it.

The rule it keeps: no byte of an Association passes before the handshake is done, and every wait still ends. The
handshake runs in the Association's own thread under its ARTIM timer, so a peer that stalls in it holds up nobody.

OpenSSL never touches the socket: what arrives is fetched in large pieces and decrypted from memory, many records a
system call, and the time limits are those of the plain socket below.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dicomd.net.deadlines import Deadline, TimedOutError
from dicomd.net.report import AssociationReport
from dicomd.net.transport import ConnectionLostError, PlainTransport, Session

Profile = Literal["bcp195", "modified-bcp195", "modern"]
ClientCertificate = Literal["required", "optional", "none"]

# Of TLS 1.2; those of TLS 1.3 are OpenSSL's defaults, three AEADs that every profile asks for. Level 2 asks for 112
# bits of security of keys and signatures: RSA keys of 2048 bits, no SHA-1. Finite-field DHE is left out: RFC 9325 §4.1
# advises against it, and PS3.15 B.13 wants its key length under control.
_CIPHERS: Final[dict[Profile, str]] = {
    "bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2",
    "modified-bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:@SECLEVEL=2",
    "modern": "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2",  # of no effect: there is no TLS 1.2
}
_PIECE: Final = 64 * 1024
"""Bytes fetched from the socket at once: measured, the decrypted ones are then still in the processor's cache."""
_FAREWELL: Final = 2.0
"""Seconds that a peer whose handshake failed has to take the alert that says why."""
_NOT_TLS: Final = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"))
_NAME_TYPES: Final = frozenset(("DNS", "IP Address", "URI"))


class TlsFailedError(ConnectionLostError):
    """The handshake failed; the message says why, in OpenSSL's words."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The files (PEM) and the terms of all TLS listeners."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_certificate: ClientCertificate = "none"
    crl: Path | None = None
    profile: Profile = "bcp195"


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """What the listeners offer, with the files read. Raises OSError, ssl.SSLError among it, for files that can't serve.

    No compression, no renegotiation, no session tickets: their keys would live as long as the process, and with them
    every Association they began (RFC 9325 §3.4).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if settings.profile == "modern" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS[settings.profile])
    context.options |= (
        ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    )
    context.num_tickets = 0
    context.load_cert_chain(settings.certificate, settings.key, password=_refuse_passphrase)
    if settings.client_certificate != "none" and settings.client_ca is not None:
        context.load_verify_locations(cafile=settings.client_ca)
        # An authority is trusted as it stands in the file, also one that another has certified.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        required = settings.client_certificate == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        if settings.crl is not None:
            context.load_verify_locations(cafile=settings.crl)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _refuse_passphrase() -> str:
    raise OSError(None, "the key has a passphrase, and a daemon has nobody to ask")


class TlsTransport(PlainTransport):
    """TLS over TCP, as `PlainTransport` otherwise: `shake_hands` has to have succeeded before anything is sent."""

    __slots__ = ("_arrived", "_decryptable", "_leaving", "_tls", "heard", "session")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, send_timeout: float) -> None:
        """Prepare an accepted socket. Raises OSError if it is gone."""
        super().__init__(sock, send_timeout=send_timeout)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=True)
        self._decryptable = False  # whether what has arrived may hold a whole record
        self.heard = False
        """Whether the peer has sent anything."""
        self.session: Session | None = None
        """What the handshake has agreed on, once it is done."""

    @property
    def secured(self) -> bool:
        """Whether the handshake is done."""
        return self.session is not None

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names in the peer's certificate; none where it showed none."""
        return self.session.certificate_names if self.session is not None else ()

    def shake_hands(self, buffer: memoryview) -> None:
        """Take the next step of the handshake with what arrives; `buffer` is room to work in.

        Raises TimeoutError after the limit of a read, `TlsFailedError` where the two don't agree, and
        `ConnectionLostError` for a peer that leaves.
        """
        self._arrived.write(buffer[: super().receive_into(buffer, acknowledge=True)])
        self.heard = True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._explain_and_linger(buffer)
            raise TlsFailedError(reason(error)) from error
        self._flush()
        cipher = self._tls.cipher()
        self.session = Session(
            version=self._tls.version() or "",
            cipher=cipher[0] if cipher else "",
            certificate_names=names(self._tls.getpeercert() or {}),
        )
        self._decryptable = True  # the A-ASSOCIATE-RQ may have come with the last of the handshake

    def receive_into(self, buffer: memoryview, *, acknowledge: bool) -> int:
        """Read what has arrived into `buffer` and return how much that is; 0 where it is only part of a record.

        Otherwise as `PlainTransport.receive_into`.
        """
        if self._decryptable and (count := self._decrypt(buffer)):
            return count
        # What is encrypted is no shorter than what is in it: the same memory serves both.
        received = super().receive_into(buffer[:_PIECE], acknowledge=acknowledge)
        self._arrived.write(buffer[:received])
        return self._decrypt(buffer)

    def _decrypt(self, buffer: memoryview) -> int:
        """Fill `buffer` from what has arrived, record by record."""
        read, size, count = self._tls.read, len(buffer), 0
        try:
            while count < size:
                length: int = read(size - count, buffer[count:])  # type: ignore[assignment]  # bytes without a buffer
                if not length:  # the peer's close_notify
                    if not count:
                        raise ConnectionLostError("closed by the peer")
                    break
                count += length
        except ssl.SSLWantReadError:
            self._decryptable = False
        except ssl.SSLError as error:
            with contextlib.suppress(ConnectionLostError):
                self._flush()
            raise ConnectionLostError(f"TLS: {reason(error)}") from error
        else:
            self._decryptable = True
        if self._leaving.pending:  # an answer of the protocol's own, such as to a KeyUpdate
            self._flush()
        return count

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises `ConnectionLostError`, also for a peer that doesn't read."""
        if not self.secured:
            raise ConnectionLostError("the TLS handshake is not done")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError as error:
            raise ConnectionLostError(f"TLS: {reason(error)}") from error
        self._flush()

    def _flush(self) -> None:
        if self._leaving.pending:
            super().send(self._leaving.read())

    def _explain_and_linger(self, buffer: memoryview) -> None:
        """Send the alert, and read on a little: to close with unread bytes would reset the connection and eat it."""
        ends = time.monotonic() + _FAREWELL
        with contextlib.suppress(ConnectionLostError, TimeoutError, OSError):
            self._flush()
            self._sock.shutdown(socket.SHUT_WR)
            while (left := ends - time.monotonic()) > 0:
                self.limit_receive(left)
                super().receive_into(buffer, acknowledge=False)

    def close(self) -> None:
        """Say so (close_notify) if that costs no waiting, and close. Never raises."""
        with contextlib.suppress(OSError):  # SSLWantReadError among them: the peer's own close_notify isn't waited for
            if self.secured:
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._sock.send(self._leaving.read(), socket.MSG_DONTWAIT)
        super().close()


def secure(transport: TlsTransport, deadline: Deadline, buffer: memoryview, report: AssociationReport) -> None:
    """Shake hands while `deadline` runs; `buffer` is room to work in.

    What fails is a connection, for there is no Association yet. Raises `TimedOutError` and `ConnectionLostError`.
    """
    try:
        while not transport.secured:
            deadline.before_receive()
            with contextlib.suppress(TimeoutError):  # `before_receive` says so when no time is left
                transport.shake_hands(buffer)
    except (TimedOutError, ConnectionLostError) as error:
        report.not_secured(error, heard=transport.heard)
        raise
    if transport.session is not None:
        report.secured(transport.session)


def names(certificate: dict[str, Any]) -> tuple[str, ...]:
    """The names of a certificate as `SSLSocket.getpeercert` describes it.

    Its alternative names of hosts, addresses and URIs, else its common name, which counts only without them
    (RFC 9525 §2 and its predecessors).
    """
    found = [
        _address(value) if kind == "IP Address" else value
        for kind, value in certificate.get("subjectAltName", ())
        if kind in _NAME_TYPES
    ]
    if not found:
        found = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return tuple(dict.fromkeys(found))


def _address(text: str) -> str:
    """An IP address as people write it; OpenSSL writes IPv6 in full, in capitals."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


def reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in lower case: "no shared cipher", "certificate verify failed: certificate has expired"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    words = (error.reason or error.strerror or str(error)).replace("_", " ").lower()
    return f"{words}: the peer may not speak TLS" if error.reason in _NOT_TLS else words
