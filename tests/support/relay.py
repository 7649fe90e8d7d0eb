"""A TCP relay on loopback that records what passes through it in both directions.

Invariant: it changes nothing. Bytes are forwarded as they arrive, the end of one direction is forwarded as the end of
that direction, and a connection that is reset on one side is reset on the other.
"""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Self

from tests.support.wire import Conversation, conversation

_CHUNK = 256 * 1024


class Recording:
    """The bytes that the requestor and the acceptor of one connection sent."""

    def __init__(self) -> None:
        self.requestor = bytearray()
        self.acceptor = bytearray()
        self.ended = threading.Event()

    def conversation(self) -> Conversation:
        """The recorded conversation. Raises `WireError` if it was not DICOM."""
        return conversation(bytes(self.requestor), bytes(self.acceptor))


class Relay:
    """Listens on a free port of 127.0.0.1 and forwards every connection to `target` = (host, port).

    A context manager that leaves no socket and no thread behind.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._recordings: list[Recording] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, name="relay")]

    @property
    def port(self) -> int:
        return self.address[1]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            sockets = [self._listener, *self._sockets]
        for sock in sockets:
            _shutdown(sock, socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        for sock in [self._listener, *self._sockets]:
            sock.close()

    def recordings(self, deadline: float = 10) -> list[Recording]:
        """All connections so far, in order, once they have ended; waits at most `deadline` seconds for each."""
        with self._lock:
            recordings = list(self._recordings)
        for recording in recordings:
            if not recording.ended.wait(deadline):
                raise TimeoutError("a relayed connection did not end")
        return recordings

    def conversations(self, deadline: float = 10) -> list[Conversation]:
        """The conversations of all connections, once they have ended."""
        return [recording.conversation() for recording in self.recordings(deadline)]

    def _accept(self) -> None:
        while True:
            try:
                requestor, _ = self._listener.accept()
            except OSError:
                return
            try:
                acceptor = socket.create_connection(self._target, timeout=10)
            except OSError:  # the target refuses the connection, so the relay does too
                requestor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                requestor.close()
                continue
            acceptor.settimeout(None)
            recording = Recording()
            for sock in (requestor, acceptor):  # a relay must not add delays by Nagle's algorithm
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            left = [2]
            pumps = [
                threading.Thread(target=self._pump, args=(requestor, acceptor, recording.requestor, recording, left)),
                threading.Thread(target=self._pump, args=(acceptor, requestor, recording.acceptor, recording, left)),
            ]
            with self._lock:
                self._recordings.append(recording)
                self._sockets += (requestor, acceptor)
                self._threads += pumps
            for pump in pumps:
                pump.start()

    def _pump(
        self, source: socket.socket, target: socket.socket, kept: bytearray, recording: Recording, left: list[int]
    ) -> None:
        try:
            while data := source.recv(_CHUNK):
                kept += data
                target.sendall(data)
            _shutdown(target, socket.SHUT_WR)
        except OSError:  # reset on one side: no more can be forwarded in either direction
            _shutdown(source, socket.SHUT_RDWR)
            _shutdown(target, socket.SHUT_RDWR)
        finally:
            with self._lock:
                left[0] -= 1
                if not left[0]:
                    recording.ended.set()


def _shutdown(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        return
