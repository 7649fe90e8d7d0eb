"""Sends the responses of one Association whose operations end in several threads.

Invariants: a response is sent whole, never inside another one; none is sent after the Association's thread has gone on
to release or abort (it ends `responses` before); and every wait ends, since a peer that doesn't read has only the time
limit of one write: after that, nothing more is sent to it.

Without TLS, each thread sends its own response. Under TLS, only the Association's thread may touch the SSL object, and
it may be waiting for the peer: so a response is left with it, and it is woken through an eventfd.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dicomd.net.outstanding import OutstandingOperations, PendingResponses
from dicomd.net.tls import TlsTransport
from dicomd.net.transport import ConnectionLostError, PlainTransport


class Responses(PendingResponses, Protocol):
    """The way of the responses of one Association to its peer; those that are pending are for its thread to send."""

    lost: ConnectionLostError | None
    """Why responses can't be sent any more, if sending one has failed."""

    def send(self, data: bytes) -> None:
        """Send a response from any thread. Raises `ConnectionLostError`."""

    def silence(self) -> None:
        """Send nothing more, since the peer has aborted. Doesn't wait for a response that is being sent."""

    def end(self) -> None:
        """Leave the transport to the Association's thread; all operations have ended. Idempotent."""


class SharedResponses:
    """Responses over plain TCP: whoever has one sends it, under a lock."""

    pending = False

    def __init__(self, transport: PlainTransport, outstanding: OutstandingOperations) -> None:
        self._transport, self._outstanding = transport, outstanding
        self._sending = threading.Lock()
        self._silent = False
        self.lost: ConnectionLostError | None = None

    def send(self, data: bytes) -> None:
        """Send a response from any thread. Raises `ConnectionLostError`."""
        with self._sending:
            if self._silent:
                raise ConnectionLostError("the Association has ended")
            if self.lost is not None:
                raise ConnectionLostError(str(self.lost), self.lost.limit)
            try:
                self._transport.send(data)
            except ConnectionLostError as error:
                self.lost = ConnectionLostError(str(error), error.limit)
                # An error of their own, as they raise it: then its traceback leads to this object.
                interruption = ConnectionLostError(str(error), error.limit)
                self._outstanding.interrupt(interruption)
                self._transport.interrupt(interruption)
                raise

    def send_pending(self) -> None:
        """There is nothing to send."""

    def silence(self) -> None:
        """Send nothing more."""
        self._silent = True

    def end(self) -> None:
        """Nothing is held."""


class _Left:
    """A response that a thread has left with the Association's thread, for which it waits."""

    __slots__ = ("data", "done", "error")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.error: Exception | None = None
        self.done = threading.Lock()
        self.done.acquire()


class LeftResponses(SharedResponses):
    """Responses over TLS: the Association's thread, which makes this object, sends them all.

    Raises OSError if there is no descriptor for it.
    """

    def __init__(self, transport: TlsTransport, outstanding: OutstandingOperations) -> None:
        super().__init__(transport, outstanding)
        self._tls = transport
        self._owner = threading.get_ident()
        self._left: deque[_Left] = deque()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        transport.attend(AttentivePoll(self._wakeup, self.send_pending), self.send_pending)

    @property
    def pending(self) -> bool:  # type: ignore[override]
        """Whether there are responses for the Association's thread to send."""
        return bool(self._left)

    def send(self, data: bytes) -> None:
        """Have the Association's thread send a response, and wait until it has. Raises `ConnectionLostError`."""
        if threading.get_ident() == self._owner:
            super().send(data)
            return
        left = _Left(data)
        self._left.append(left)
        os.eventfd_write(self._wakeup, 1)  # it waits for the peer
        self._outstanding.notify()  # or for an operation
        left.done.acquire()
        if left.error is not None:
            try:
                raise left.error
            finally:
                del left  # otherwise the traceback would keep this frame, and the frame the error

    def send_pending(self) -> None:
        """Send the responses that other threads have left, and let these threads go on."""
        while self._left:
            left = self._left.popleft()
            try:
                super().send(left.data)
            except Exception as error:  # of any kind: the thread that waits for it reports it
                left.error = error
            left.done.release()
            del left  # as above

    def end(self) -> None:
        """Have the transport wait for its peer alone, and close the eventfd."""
        wakeup, self._wakeup = self._wakeup, -1
        if wakeup >= 0:
            self._tls.attend(select.poll(), None)
            os.close(wakeup)


class AttentivePoll:
    """Waits like `select.poll` for one socket; while it waits to read, it calls `meanwhile` for each wake-up."""

    def __init__(self, wakeup: int, meanwhile: Callable[[], None]) -> None:
        """`wakeup` is the eventfd that wakes it."""
        self._wakeup = wakeup
        self._meanwhile = meanwhile
        self._reading, self._writing = select.poll(), select.poll()
        self._reading.register(wakeup, select.POLLIN)
        self._poll = self._reading

    def register(self, fd: int, event: int) -> None:
        """Wait for this socket, to read or to write."""
        self._poll = self._reading if event == select.POLLIN else self._writing
        self._poll.register(fd, event)

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        """Wait until the socket is ready, for so many milliseconds at most; return an empty list then."""
        if self._poll is self._writing:
            return self._writing.poll(milliseconds)
        ends = time.monotonic() + milliseconds / 1000
        while True:
            ready = self._reading.poll(milliseconds)
            of_the_socket = [each for each in ready if each[0] != self._wakeup]
            if len(of_the_socket) < len(ready):
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakeup)
                self._meanwhile()
            milliseconds = (ends - time.monotonic()) * 1000
            if of_the_socket or milliseconds <= 0:
                return of_the_socket
