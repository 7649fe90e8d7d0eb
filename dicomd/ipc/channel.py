"""Messages of one byte between the supervisor and a child, over a pair of sockets.

Invariant: neither end ever waits for the other. A byte that doesn't fit into the socket's buffer is dropped, which only
happens if the other process doesn't read and so couldn't act on it anyway. When a process ends, the other one reads the
end of the stream. So children notice the supervisor's death without any message and don't outlive it for long.
"""

from __future__ import annotations

import contextlib
import socket
from enum import Enum


class Order(Enum):
    """What the supervisor orders a child to do."""

    RETIRE = b"r"
    """Accept no more connections, and exit when the open ones have ended, however long they last."""
    STOP = b"s"
    """Accept no more connections, and exit within the time that a stop allows (dicomd.drain_timeout)."""
    HURRY = b"h"
    """Abort the open connections and exit now."""
    MAKE_ROOM = b"m"
    """The same as `HURRY`, to a retiring child, because a reload needs the place of its generation."""
    ORPHANED = b""
    """The supervisor has died. Never sent: the end of the stream implies it."""


class ChildEvent(Enum):
    """What a child reports."""

    READY = b"R"
    BEAT = b"."
    RETIRED = b"L"
    """The child accepts no more connections."""


class _End:
    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end, or this process's copy of it."""
        self._sock.close()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the buffer is full, or the other process has exited
            self._sock.send(data)

    def _receive(self) -> bytes | None:
        """Return the bytes that have arrived, b"" at the end of the stream, or None if there are none yet."""
        try:
            return self._sock.recv(4096)
        except BlockingIOError:
            return None
        except OSError:
            return b""


class SupervisorEnd(_End):
    """The supervisor's end."""

    def order(self, order: Order) -> None:
        """Send an order to the child."""
        self._send(order.value)

    def take(self) -> set[ChildEvent]:
        """Return what the child has reported since the last call."""
        data = self._receive() or b""
        return {report for report in ChildEvent if report.value in data}


class ChildEnd(_End):
    """The child's end."""

    def say(self, report: ChildEvent) -> None:
        """Send a report to the supervisor."""
        self._send(report.value)

    def take(self) -> set[Order]:
        """Return the supervisor's orders since the last call."""
        data = self._receive()
        if data is None:
            return set()
        if not data:
            return {Order.ORPHANED}
        return {order for order in Order if order.value and order.value in data}


def channel() -> tuple[SupervisorEnd, ChildEnd]:
    """Create a channel and return its two ends. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return SupervisorEnd(ours), ChildEnd(theirs)
