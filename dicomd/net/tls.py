"""TLS: what dicomd offers by profile, and a connection that speaks it.

The rule it keeps: no byte of an Association passes before the handshake is done, and every wait still ends. The
handshake runs in the Association's own thread under its ARTIM timer, so a peer that stalls in it holds up nobody.

OpenSSL reads and writes the socket itself, and never waits for it: what is waited for, and how long, is decided here.
Measured, two system calls a record cost less than to fetch large pieces and to have them copied through memory.
One wait isn't ours: while a peer floods us with records that carry nothing (KeyUpdates of TLS 1.3), OpenSSL reads on.
That keeps one thread busy, without Python's lock, and ends with the process, which waits for no thread at its end.
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
from typing import Any, Final, Literal, cast

from dicomd.net.deadlines import Deadline, TimedOutError
from dicomd.net.report import AssociationReport
from dicomd.net.transport import ConnectionLostError, PlainTransport, Session
from dicomd.private_keys import refuse_passphrase

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
_LONGEST_POLL: Final = 2**31 - 1
"""Milliseconds that poll(2) can wait at once; limits may be longer."""
_ALL: Final = 2**31 - 1
"""More bytes than any buffer has: OpenSSL reads what there is room for, and the loop has nothing to compute."""
_NOT_SECURED: Final = "the TLS handshake is not done"
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
    # An end without close_notify is an end; what it cuts off is found out by lengths and release. As an error it would
    # keep OpenSSL from sending the A-ABORT of an Association that is woken to be told that dicomd stops.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.num_tickets = 0
    context.load_cert_chain(settings.certificate, settings.key, password=refuse_passphrase)
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


class TlsTransport(PlainTransport):
    """TLS over TCP, as `PlainTransport` otherwise: `shake_hands` has to have succeeded before anything is sent.

    Until the handshake begins the connection is a plain one, for what comes before TLS.
    """

    __slots__ = ("_broken", "_context", "_dry", "_next_step", "_read", "_tls", "_waiting", "heard", "session")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, send_timeout: float) -> None:
        """Prepare an accepted socket. Raises OSError if it is gone."""
        super().__init__(sock, send_timeout=send_timeout)
        self._context = context
        self._tls: ssl.SSLSocket | None = None
        self._read: Callable[[int, memoryview], int] = _read_nothing
        self._waiting = select.poll()
        self._dry = False  # whether all that had arrived has been read
        self._broken = ""  # what is wrong behind the last bytes that could be decrypted
        self._next_step = select.POLLIN  # what the handshake waits for
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

    def limit_receive(self, seconds: float) -> None:
        """Let each following `receive_into` or `shake_hands` wait at most so long."""
        if self._tls is None:
            super().limit_receive(seconds)
        self._receive_timeout = seconds

    def shake_hands(self, buffer: memoryview) -> None:
        """Take the next step of the handshake with what arrives; `buffer` is room to work in.

        Raises TimeoutError after the limit of a read, `TlsFailedError` where the two don't agree, and
        `ConnectionLostError` for a peer that leaves.
        """
        try:
            tls = self._tls or self._begin()
            self._await(self._next_step, self._receive_timeout)
            if self._next_step == select.POLLIN and not socket.socket.recv(tls, 1, socket.MSG_PEEK):
                raise self._ended()
            self.heard = True
            tls.do_handshake()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._next_step = select.POLLIN
            return
        except ssl.SSLWantWriteError:
            self._next_step = select.POLLOUT
            return
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # between the look at what has come and the reading of it
            raise self._ended() from None
        except ssl.SSLError as error:
            self._linger(buffer)
            raise TlsFailedError(reason(error)) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLostError(error.strerror or str(error)) from error
        # Python's object below the socket: two calls of each record are saved, and with them a tenth of all that is
        # Python's. Where there is none any more, the socket has the same method.
        self._read = cast("Callable[[int, memoryview], int]", getattr(tls, "_sslobj", tls).read)
        cipher = tls.cipher()
        self.session = Session(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            certificate_names=names(tls.getpeercert() or {}),
        )

    def receive_into(self, buffer: memoryview, *, acknowledge: bool) -> int:
        """Read what has arrived into `buffer` and return how much that is; 0 where it is only part of a record.

        Otherwise as `PlainTransport.receive_into`.
        """
        if not self._dry and (count := self._decrypt(buffer)):
            return count
        if acknowledge:
            with contextlib.suppress(OSError):  # what is wrong with the connection shows in a moment
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._await(select.POLLIN, self._receive_timeout)
        return self._decrypt(buffer)

    def _decrypt(self, buffer: memoryview) -> int:
        """Fill `buffer` from what has arrived, record by record."""
        if self._broken:
            raise ConnectionLostError(self._broken)
        read, room = self._read, buffer
        self._dry = ended = False
        broken = ""
        try:
            while room:
                length = read(_ALL, room)
                if not length:  # the peer's close_notify, or its end without one
                    ended = True
                    break
                room = room[length:]
        except ssl.SSLWantReadError:
            self._dry = True
        except ssl.SSLWantWriteError:  # an answer of the protocol's own, such as to a KeyUpdate
            self._await_room(time.monotonic() + self._send_timeout)
        except ssl.SSLEOFError:
            ended = True
        except ssl.SSLError as error:
            broken = f"TLS: {reason(error)}"
        except OSError as error:
            broken = error.strerror or str(error)
        count = len(buffer) - len(room)
        if count:  # what came before counts: it may be the peer's A-ABORT
            self._broken = broken
        elif broken:
            raise ConnectionLostError(broken)
        elif ended:
            raise self._ended()
        return count

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises `ConnectionLostError`, also for a peer that doesn't read."""
        if self._tls is None or not self.secured:
            raise ConnectionLostError(_NOT_SECURED)
        rest, deadline = memoryview(data), time.monotonic() + self._send_timeout
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
        """Say so (close_notify) if that costs no waiting, and close. Never raises."""
        if self._tls is not None and self.secured:
            with contextlib.suppress(OSError, ValueError):  # SSLWantReadError: the peer's own isn't waited for
                self._tls.unwrap()
        super().close()

    def _begin(self) -> ssl.SSLSocket:
        """From now on the connection is TLS, and never waits by itself: the waiting is done here. Raises OSError."""
        self._sock.setblocking(False)
        try:
            tls = self._context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        except ssl.SSLError:  # it has spoken, and is gone already
            self.heard = True
            raise
        self._sock = self._tls = tls
        if self._woken:  # perhaps in the moment when neither socket was there to be woken
            self.wake(self._woken)
        return tls

    def _await(self, event: int, seconds: float) -> None:
        """Wait until reading or writing may be possible. Raises TimeoutError after `seconds`."""
        self._waiting.register(self._sock.fileno(), event)
        if not self._waiting.poll(min(max(1.0, seconds * 1000), _LONGEST_POLL)):
            raise TimeoutError

    def _await_room(self, deadline: float) -> None:
        """Wait for a peer that reads slowly, but has to be done by `deadline`."""
        with contextlib.suppress(TimeoutError):
            if (left := deadline - time.monotonic()) > 0:
                self._await(select.POLLOUT, left)
                return
        raise self._not_read()

    def _linger(self, buffer: memoryview) -> None:
        """Read on a little after an alert: to close with unread bytes would reset the connection and eat it."""
        ends = time.monotonic() + _FAREWELL
        with contextlib.suppress(TimeoutError, OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while (left := ends - time.monotonic()) > 0:
                self._await(select.POLLIN, left)
                if not socket.socket.recv_into(self._sock, buffer):
                    return


def _read_nothing(_size: int, _buffer: memoryview) -> int:
    raise ConnectionLostError(_NOT_SECURED)


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
