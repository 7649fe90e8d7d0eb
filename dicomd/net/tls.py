"""TLS: what dicomd offers in each profile, and a transport that speaks it.

Invariant: no byte of an Association passes before the handshake is done, and every wait ends. The handshake runs in the
Association's own thread under its ARTIM timer, so a peer that stalls in it delays nobody else.

OpenSSL reads and writes the socket itself but never waits for it: all waiting, with its time limits, is done here. Two
system calls per record were measured to cost less than fetching large pieces and copying them through memory. There is
one exception to the limits: while a peer floods us with records that carry no data (KeyUpdates of TLS 1.3), OpenSSL
keeps reading. That occupies one thread, without Python's lock; it can't delay the end of the process, which waits for
no thread.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

from dicomd.net.deadlines import Deadline, TimedOutError
from dicomd.net.report import AssociationReport
from dicomd.net.transport import ConnectionLostError, PlainTransport, Session
from dicomd.private_keys import refuse_passphrase
from dicomd.protocols import FIRST_BYTES, Spoken, recognize

Profile = Literal["bcp195", "modified-bcp195", "modern"]
ClientCertificate = Literal["required", "optional", "none"]

# Cipher suites of TLS 1.2; for TLS 1.3 OpenSSL's defaults are used, three AEADs that every profile allows. Level 2
# requires 112 bits of security of keys and signatures: RSA keys of 2048 bits, no SHA-1. Finite-field DHE is left out:
# RFC 9325 §4.1 advises against it, and PS3.15 B.13 restricts its key length.
_CIPHERS: Final[dict[Profile, str]] = {
    "bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2",
    "modified-bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:@SECLEVEL=2",
    "modern": "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2",  # no effect, as TLS 1.2 is off
}
_LONGEST_POLL: Final = 2**31 - 1
"""Longest wait of poll(2) in milliseconds; a configured limit may be longer."""
_ALL: Final = 2**31 - 1
"""More bytes than any buffer has: OpenSSL reads as much as there is room for, and the loop needn't compute that."""
_NOT_SECURED: Final = "the TLS handshake is not done"
_CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a peer whose handshake failed has to receive the alert that says why."""
_NOT_TLS: Final = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"))
_NAME_TYPES: Final = frozenset(("DNS", "IP Address", "URI"))


class Waiting(Protocol):
    """The part of `select.poll` that a transport waits with, for one event of its socket at a time."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Wait for this event of this descriptor."""

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """Wait for so many milliseconds at most; return an empty list then."""


class TlsFailedError(ConnectionLostError):
    """The handshake failed; the message is OpenSSL's reason."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The files (PEM) and the settings of all TLS listeners."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_certificate: ClientCertificate = "none"
    crl: Path | None = None
    profile: Profile = "bcp195"


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Make the context of the listeners and read the files. Raises OSError (including ssl.SSLError) for unusable files.

    There is no compression, no renegotiation, and there are no session tickets: their keys would live as long as the
    process, and whoever stole one could decrypt every Association that it was used for (RFC 9325 §3.4).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if settings.profile == "modern" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS[settings.profile])
    context.options |= (
        ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    )
    # Treat an end without close_notify as a normal end: truncation is detected by PDU lengths and the missing release.
    # As an error, it would prevent OpenSSL from sending the A-ABORT after `wake` has shut down the receiving side.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.num_tickets = 0
    context.load_cert_chain(settings.certificate, settings.key, password=refuse_passphrase)
    if settings.client_certificate != "none" and settings.client_ca is not None:
        context.load_verify_locations(cafile=settings.client_ca)
        # Every authority in the file is trusted, including one whose own certificate another authority has issued.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        required = settings.client_certificate == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        if settings.crl is not None:
            context.load_verify_locations(cafile=settings.crl)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


class TlsTransport(PlainTransport):
    """TLS over TCP. Like `PlainTransport`, but the handshake (`shake_hands`) must be done before anything is sent.

    Until the handshake begins, the connection can be used without TLS, for a PROXY header.
    """

    __slots__ = (
        "_broken",
        "_context",
        "_dry",
        "_next_step",
        "_read",
        "_tls",
        "_waiting",
        "first_bytes",
        "heard",
        "session",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, send_timeout: float) -> None:
        """Prepare an accepted socket. Raises OSError if the connection is already gone."""
        super().__init__(sock, send_timeout=send_timeout)
        self._context = context
        self._tls: ssl.SSLSocket | None = None
        self._read: Callable[[int, memoryview], int] = _read_nothing
        self._waiting: Waiting = select.poll()
        self._dry = False  # whether everything that had arrived has been read
        self._broken = ""  # the error after the last bytes that could be decrypted, reported by the next read
        self._next_step = select.POLLIN  # what the handshake waits for
        self.heard = False
        """Whether the peer has sent anything."""
        self.first_bytes = b""
        """Up to six bytes that it sent first."""
        self.session: Session | None = None
        """The outcome of the handshake, once it is done."""

    @property
    def secured(self) -> bool:
        """Whether the handshake is done."""
        return self.session is not None

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names in the peer's certificate; none if it presented none."""
        return self.session.certificate_names if self.session is not None else ()

    def limit_receive(self, seconds: float) -> None:
        """Limit how long each following `receive_into` or `shake_hands` may wait."""
        if self._tls is None:
            super().limit_receive(seconds)
        self.receive_timeout = seconds

    def shake_hands(self, buffer: memoryview) -> None:
        """Wait for the peer and take the next step of the handshake; `buffer` is scratch space.

        Raises TimeoutError after the limit of a read, `TlsFailedError` if the handshake fails, and
        `ConnectionLostError` if the peer closes the connection.
        """
        try:
            tls = self._tls or self._begin()
            self._await(self._next_step, self.receive_timeout)
            if self._next_step == select.POLLIN:
                waiting = socket.socket.recv(tls, FIRST_BYTES, socket.MSG_PEEK)
                if not waiting:
                    raise self._ended()
                if not self.heard:
                    self.first_bytes = waiting
            self.heard = True
            tls.do_handshake()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._next_step = select.POLLIN
            return
        except ssl.SSLWantWriteError:
            self._next_step = select.POLLOUT
            return
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # closed between the MSG_PEEK and the handshake's own read
            raise self._ended() from None
        except ssl.SSLError as error:
            self._linger(buffer)
            raise TlsFailedError(reason(error)) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLostError(error.strerror or str(error)) from error
        self._read = _reader(tls)
        cipher = tls.cipher()
        self.session = Session(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            certificate_names=names(tls.getpeercert() or {}),
        )

    def attend(self, waiting: Waiting, meanwhile: Callable[[], None] | None) -> None:
        """Wait by means of `waiting` from now on, and call `meanwhile` before each record is read."""
        self._waiting = waiting
        if self._tls is None:
            return
        read = _reader(self._tls)
        if meanwhile is None:
            self._read = read
            return

        def read_attentively(size: int, buffer: memoryview) -> int:
            meanwhile()
            return read(size, buffer)

        self._read = read_attentively

    def receive_into(self, buffer: memoryview, *, acknowledge: bool, whole: bool = False) -> int:  # noqa: ARG002
        """Read what has arrived into `buffer` and return how many bytes; 0 if only part of a record has arrived.

        Otherwise like `PlainTransport.receive_into`.
        """
        if not self._dry and (count := self._decrypt(buffer)):
            return count
        if acknowledge:
            with contextlib.suppress(OSError):  # the read below will report what is wrong
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._await(select.POLLIN, self.receive_timeout)
        return self._decrypt(buffer)

    def _decrypt(self, buffer: memoryview) -> int:
        """Fill `buffer` from what has arrived, record by record."""
        if self._broken:
            raise ConnectionLostError(self._broken)
        read = self._read
        room = buffer
        self._dry = ended = False
        broken = ""
        try:
            while room:
                length = read(_ALL, room)
                if not length:  # the peer's close_notify, or the end of the connection without one
                    ended = True
                    break
                room = room[length:]
        except ssl.SSLWantReadError:
            self._dry = True
        except ssl.SSLWantWriteError:  # TLS itself has something to send, such as the answer to a KeyUpdate
            self._await_room(time.monotonic() + self._send_timeout)
        except ssl.SSLEOFError:
            ended = True
        except ssl.SSLError as error:
            broken = f"TLS: {reason(error)}"
        except OSError as error:
            broken = error.strerror or str(error)
        count = len(buffer) - len(room)
        if count:  # first deliver what came before the error: it may be the peer's A-ABORT
            self._broken = broken
        elif broken:
            raise ConnectionLostError(broken)
        elif ended:
            raise self._ended()
        return count

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises `ConnectionLostError`, also if the peer doesn't read."""
        if self._tls is None or not self.secured:
            raise ConnectionLostError(_NOT_SECURED)
        rest = memoryview(data)
        deadline = time.monotonic() + self._send_timeout
        while rest:
            try:
                rest = rest[self._tls.send(rest) :]
            except ssl.SSLWantWriteError:
                self._await_room(deadline)
            except ssl.SSLError as error:
                raise ConnectionLostError(f"TLS: {reason(error)}") from error
            except OSError as error:
                raise ConnectionLostError(error.strerror or str(error)) from error

    def close(self) -> None:
        """Send a close_notify if that is possible without waiting, and close. Never raises."""
        if self._tls is not None and self.secured:
            with contextlib.suppress(OSError, ValueError):  # SSLWantReadError: don't wait for the peer's close_notify
                self._tls.unwrap()
        super().close()

    def _begin(self) -> ssl.SSLSocket:
        """Switch the connection to TLS and the socket to non-blocking, as all waiting is done here. Raises OSError."""
        self._sock.setblocking(False)
        try:
            tls = self._context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        except ssl.SSLError:  # the peer has sent something and is already gone
            self.heard = True
            raise
        self._sock = self._tls = tls
        if self._interruption is not None:  # possibly while the socket was being replaced, so that it was lost
            self.interrupt(self._interruption)
        return tls

    def _await(self, event: int, seconds: float) -> None:
        """Wait until reading or writing may be possible. Raises TimeoutError after `seconds`."""
        self._waiting.register(self._sock.fileno(), event)
        if not self._waiting.poll(min(max(1.0, seconds * 1000), _LONGEST_POLL)):
            raise TimeoutError

    def _await_room(self, deadline: float) -> None:
        """Wait until a slowly reading peer makes room. Raises `ConnectionLostError` at `deadline`."""
        with contextlib.suppress(TimeoutError):
            if (left := deadline - time.monotonic()) > 0:
                self._await(select.POLLOUT, left)
                return
        raise self._not_read()

    def _linger(self, buffer: memoryview) -> None:
        """Keep reading briefly after an alert: closing with unread bytes would reset the connection and lose it."""
        ends = time.monotonic() + _CLOSE_TIMEOUT
        with contextlib.suppress(TimeoutError, OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while (left := ends - time.monotonic()) > 0:
                self._await(select.POLLIN, left)
                if not socket.socket.recv_into(self._sock, buffer):
                    return


def _reader(tls: ssl.SSLSocket) -> Callable[[int, memoryview], int]:
    """Return the function that reads up to so many bytes of what has arrived into a buffer.

    It is that of Python's undocumented object below the socket, which saves two calls per record, and with them a tenth
    of Python's own time. tests/unit/net/test_tls.py notices if a version of Python no longer has it; such a version
    uses the socket's own function, which does the same.
    """
    return cast("Callable[[int, memoryview], int]", getattr(tls, "_sslobj", tls).read)


def _read_nothing(_size: int, _buffer: memoryview) -> int:
    raise ConnectionLostError(_NOT_SECURED)


def handshake(transport: TlsTransport, deadline: Deadline, buffer: memoryview, report: AssociationReport) -> None:
    """Do the TLS handshake before `deadline`; `buffer` is scratch space.

    A failure is reported for the connection, as there is no Association yet. Raises `TimedOutError` and
    `ConnectionLostError`.
    """
    try:
        while not transport.secured:
            deadline.before_receive()
            with contextlib.suppress(TimeoutError):  # `before_receive` raises when no time is left
                transport.shake_hands(buffer)
    except (TimedOutError, ConnectionLostError) as error:
        spoken = recognize(transport.first_bytes) if isinstance(error, TlsFailedError) else None
        if spoken in (None, Spoken.TLS):
            report.not_secured(error, heard=transport.heard)
        else:
            report.mismatched(spoken, in_handshake=True)
        raise
    if transport.session is not None:
        report.secured(transport.session)


def names(certificate: dict[str, Any]) -> tuple[str, ...]:
    """Return the names in a certificate, given as `SSLSocket.getpeercert` describes it.

    They are its alternative names of hosts, addresses and URIs, or without any of these its common name (RFC 9525 §2
    and its predecessors).
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
    """Normalize an IP address: OpenSSL writes IPv6 unabbreviated and in capitals."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


def reason(error: ssl.SSLError) -> str:
    """Put OpenSSL's reason in lower case: "no shared cipher", "certificate verify failed: certificate has expired"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    words = (error.reason or error.strerror or str(error)).replace("_", " ").lower()
    return f"{words}: the peer may not speak TLS" if error.reason in _NOT_TLS else words
