"""What the supervisor and a child tell each other, a byte at a time, over a pair of sockets.

The rule it keeps: nobody ever waits for the other. A byte that finds no room is dropped, which only happens when the
other end doesn't read, and then its meaning is lost anyhow. The end of one process is the end of the stream for the
other: no orphan outlives the supervisor, and nothing has to be sent for that.
"""

from __future__ import annotations

import contextlib
import socket
from enum import Enum


class Order(Enum):
    """What the supervisor wants of a child."""

    RETIRE = b"r"
    """Take no more connections, and leave when those that are open have ended in their own time."""
    STOP = b"s"
    """The same, within the time that a stop allows."""
    HURRY = b"h"
    """Wait no longer."""
    MAKE_ROOM = b"m"
    """The same, to a child that retires, because a reload needs the place of its generation."""
    ORPHANED = b""
    """The supervisor is gone."""


class ChildEvent(Enum):
    """What a child has to say."""

    READY = b"R"
    BEAT = b"."
    RETIRED = b"L"
    """It takes no more connections."""


class _End:
    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end, or this process's copy of it."""
        self._sock.close()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # full, or nobody there any more
            self._sock.send(data)

    def _receive(self) -> bytes | None:
        """What there is, b"" at the end of the stream, None where there is nothing yet."""
        try:
            return self._sock.recv(4096)
        except BlockingIOError:
            return None
        except OSError:
            return b""


class SupervisorEnd(_End):
    """The supervisor's end."""

    def order(self, order: Order) -> None:
        """Tell the child."""
        self._send(order.value)

    def take(self) -> set[ChildEvent]:
        """What the child has said since the last call."""
        data = self._receive() or b""
        return {report for report in ChildEvent if report.value in data}


class ChildEnd(_End):
    """The child's end."""

    def say(self, report: ChildEvent) -> None:
        """Tell the supervisor."""
        self._send(report.value)

    def take(self) -> set[Order]:
        """What the supervisor has ordered since the last call."""
        data = self._receive()
        if data is None:
            return set()
        if not data:
            return {Order.ORPHANED}
        return {order for order in Order if order.value and order.value in data}


def channel() -> tuple[SupervisorEnd, ChildEnd]:
    """A new pair of ends. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return SupervisorEnd(ours), ChildEnd(theirs)
