"""A connected socket as an Association uses it: blocking reads and writes with time limits, no threads and no polling.

Invariant: every wait ends. Time limits are the kernel's own (SO_RCVTIMEO, SO_SNDTIMEO): they need no system call per
read, wake only the waiting thread, and leave the connection usable for an A-ABORT.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_TIMEVAL: Final = struct.Struct("@ll")
_RESET: Final = struct.pack("@ii", 1, 0)
_SHORTEST: Final = 0.001  # seconds: a timeval of zero would mean no limit


class ConnectionLostError(Exception):
    """The connection was closed or reset by the peer, or is unusable. `limit` names the limit that ended it, if any."""

    def __init__(self, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class WokenError(ConnectionLostError):
    """This side ended the wait for the peer, by `PlainTransport.wake`; the message says why."""


@dataclass(frozen=True, slots=True)
class Session:
    """The outcome of a TLS handshake. `certificate_names` are those in the peer's certificate, if it presented one."""

    version: str
    cipher: str
    certificate_names: tuple[str, ...]


def prepare_listening(sock: socket.socket, seconds: float) -> None:
    """Set the options of a `PlainTransport` on a listening socket, and `seconds` as the time limit of reads and writes.

    On Linux an accepted connection inherits them, which saves four system calls. One that waited to be accepted before
    has none of them. Workers of two generations share the socket, so it may have others of them already.
    """
    # First of all, the option that a connection's inheritance is known by: so none has this time limit of writes and
    # another one of reads.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0.0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
    _set_options(sock, seconds)


def _set_options(sock: socket.socket, send_timeout: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # The last one: a connection that has inherited it has the others, too.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_timeout))


class PlainTransport:
    """TCP without TLS. One thread reads, one at a time writes; `wake` and `interrupt` may be called from any."""

    __slots__ = ("_interruption", "_send_timeout", "_sock", "proxy_header_pending", "receive_timeout")

    def __init__(self, sock: socket.socket, *, send_timeout: float) -> None:
        """Prepare an accepted, blocking socket. Raises OSError if the connection is already gone.

        `send_timeout` is how long a write may block, in seconds.
        """
        self._sock = sock
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.size) == _timeval(send_timeout):
            self.receive_timeout = send_timeout  # inherited: see `prepare_listening`
        else:
            _set_options(sock, send_timeout)
            self.receive_timeout = 0.0
        """How long each `receive_into` may wait, in seconds; 0 for no limit."""
        self._send_timeout = send_timeout
        self._interruption: Exception | None = None
        self.proxy_header_pending = False
        """Whether the connection must begin with a load balancer's PROXY header, and that is still to come."""

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names in the peer's verified certificate: none without TLS."""
        return ()

    def limit_receive(self, seconds: float) -> None:
        """Limit how long each following `receive_into` may wait."""
        if seconds != self.receive_timeout:
            self.receive_timeout = seconds
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
            except OSError as error:
                raise ConnectionLostError(str(error)) from error

    def receive_into(self, buffer: memoryview, *, acknowledge: bool, whole: bool = False) -> int:
        """Read at least one byte into `buffer` and return how many; with `whole`, wait until it is full.

        That wait also ends at the limit, if only a part has come until then.

        `acknowledge` sends the pending TCP acknowledgement at once: real senders write the header and the body of a PDU
        separately, and with Nagle's algorithm they would wait 40 ms per PDU for it. The option isn't sticky, so it is
        set for each read. Raises TimeoutError after the limit and `ConnectionLostError` at the end of the connection,
        `WokenError` if `wake` ended it, and what `interrupt` was given if that did.
        """
        try:
            if acknowledge:
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            count = self._sock.recv_into(buffer, 0, socket.MSG_WAITALL) if whole else self._sock.recv_into(buffer)
        except BlockingIOError:
            raise TimeoutError from None
        except OSError as error:
            raise ConnectionLostError(error.strerror or str(error)) from error
        if not count:
            raise self._ended()
        return count

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises `ConnectionLostError`, also if the peer doesn't read."""
        try:
            sent = self._sock.send(data)
            if sent != len(data):
                self._send_rest(memoryview(data)[sent:])
        except BlockingIOError:
            raise self._not_read() from None
        except OSError as error:
            raise ConnectionLostError(error.strerror or str(error)) from error

    def _send_rest(self, rest: memoryview) -> None:
        """Send what the kernel had no room for. The peer may read slowly, but only up to the time limit."""
        deadline = time.monotonic() + self._send_timeout
        while rest:
            if time.monotonic() > deadline:
                raise BlockingIOError
            rest = rest[self._sock.send(rest) :]

    def _ended(self) -> Exception:
        return self._interruption or ConnectionLostError("closed by the peer")

    def _not_read(self) -> ConnectionLostError:
        with contextlib.suppress(OSError):  # unread data must not linger in the kernel
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return ConnectionLostError("the peer does not read", "send_timeout")

    def wake(self, why: str) -> None:
        """End a blocked `receive_into` as if the peer had closed; sending stays possible. May be called by any thread.

        What has arrived, or still arrives, can be read: Linux only stops waiting for more.
        """
        self.interrupt(WokenError(why))

    def interrupt(self, error: Exception) -> None:
        """Like `wake`, but have `receive_into` raise `error`. If that is a lost connection, end sending, too."""
        self._interruption = error
        lost = isinstance(error, ConnectionLostError) and not isinstance(error, WokenError)
        with contextlib.suppress(OSError):  # SSLSocket.shutdown would continue without TLS
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR if lost else socket.SHUT_RD)

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._interruption = None  # its traceback may lead back here
        with contextlib.suppress(OSError):
            self._sock.close()


@lru_cache(maxsize=16)  # the configured limits, which nearly every connection sets
def _timeval(seconds: float) -> bytes:
    whole, fraction = divmod(max(seconds, _SHORTEST), 1)
    return _TIMEVAL.pack(int(whole), int(fraction * 1e6))
