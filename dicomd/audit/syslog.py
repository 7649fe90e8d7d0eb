"""Syslog over TLS (RFC 5424, RFC 5425; PS3.15 A.6): one connection, opened when there is something to send.

Invariant: `send` returns once the server's machine has acknowledged every byte, and raises otherwise, so that what
wasn't delivered is sent again. Syslog has no acknowledgement of its own: what a server does with a message that its
kernel has received can't be known.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from dicomd.audit.messages import SUCCESS, Rendered

TIMEOUT = 10.0
"""Seconds allowed for the connection, the handshake, each write, and the acknowledgement of a batch."""
_FACILITY = 10  # security and authorization (PS3.15 A.6)
_NOTICE, _WARNING = 5, 4
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SyslogServer:
    """The server to send to. It is verified by its name, and by the authorities in `ca` or, if None, the system's.

    `certificate`, with its key, is presented to a server that asks for one.
    """

    host: str
    port: int
    ca: Path | None = None
    certificate: tuple[Path, Path] | None = None

    def context(self) -> ssl.SSLContext:
        """Make the context for a new connection from the files as they are now. Raises OSError, such as SSLError."""
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        return context


class SyslogConnection:
    """One connection to the server. For one thread."""

    def __init__(self, server: SyslogServer, *, host: str, process_id: int) -> None:
        """`host` and `process_id` are the sender's, for the headers."""
        self._server, self._host, self._process_id = server, _header_text(host), process_id
        self._sock: ssl.SSLSocket | None = None

    def send(self, messages: list[Rendered]) -> None:
        """Deliver messages. Raises OSError; some of them may have arrived even so, and may arrive twice."""
        try:
            sock = self._connected()
            for message in messages:
                sock.sendall(frame(message, self._host, self._process_id))
            _await_acknowledgement(sock)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """End the connection. Never raises."""
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                sock.settimeout(1.0)
                sock.unwrap()
            sock.close()

    def _connected(self) -> ssl.SSLSocket:
        if self._sock is not None and not _ended(self._sock):
            return self._sock
        self.close()
        server = self._server
        context = server.context()
        plain = socket.create_connection((server.host, server.port), timeout=TIMEOUT)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._sock = context.wrap_socket(plain, server_hostname=server.host)
        except BaseException:
            plain.close()
            raise
        return self._sock


def frame(message: Rendered, host: str, process_id: int) -> bytes:
    """Encode a message as an octet-counted frame (RFC 5425 §4.3) with its header (RFC 5424 §6)."""
    severity = _NOTICE if message.outcome == SUCCESS else _WARNING
    header = f"<{_FACILITY * 8 + severity}>1 {message.timestamp} {host} dicomd {process_id} DICOM+RFC3881 - "
    content = header.encode("ascii") + _BOM + message.xml
    return b"%d %b" % (len(content), content)


def _header_text(text: str) -> str:
    """Reduce text to printable ASCII without spaces (RFC 5424 §6), or to the NILVALUE if nothing is left."""
    return "".join(character for character in text if "!" <= character <= "~")[:255] or "-"


def _ended(sock: ssl.SSLSocket) -> bool:
    """Return whether the server has closed the connection; it sends nothing else (RFC 5425 §4.4)."""
    sock.settimeout(0.0)
    try:
        return not sock.recv(4096)
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            sock.settimeout(TIMEOUT)


def _await_acknowledgement(sock: ssl.SSLSocket) -> None:
    """Wait until the other machine has received all bytes. Raises OSError if it doesn't, or has gone."""
    deadline = time.monotonic() + TIMEOUT
    while struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
        if time.monotonic() > deadline:
            raise TimeoutError("the syslog server does not acknowledge what is sent")
        time.sleep(0.005)
    if _ended(sock):
        raise ConnectionError("the syslog server closed the connection")
