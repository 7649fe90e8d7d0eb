"""The accept loop: connections in, one Association thread for each, and a drained end.

The rule it keeps: nothing that a peer sends, or doesn't send, is waited for here; a connection that can't be served
(too many, no thread, no descriptor) is closed and counted, and the loop goes on.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicomd.net.association import AcceptorSettings, Association
from dicomd.net.report import AssociationReport, ConnectionReport
from dicomd.net.transport import PlainTransport

BACKLOG = 512
"""Connections that wait in the kernel while a burst is accepted."""
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
_PAUSE = 0.1  # seconds; without it a listener that can't accept for want of descriptors would spin
_LONGEST_WAIT = 0.5  # seconds: a signal that comes just before a wait is heeded after it
_ABORT_GRACE = 5.0  # seconds for aborted Associations to end: their disks may be slow


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and its name in metrics and logs."""

    name: str
    sock: socket.socket


def bind(name: str, address: str, port: int) -> Listener:
    """Listen on an address, IPv4 or IPv6; "::" takes IPv4 too. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return Listener(
        name,
        socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=family == socket.AF_INET6),
    )


class ConnectionAcceptor:
    """Accepts on `listeners` and serves each connection in a thread of its own."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        settings: AcceptorSettings,
        report: ConnectionReport,
        new_report: Callable[[str, str], AssociationReport],
    ) -> None:
        """`new_report` makes the report of an Association from the listener's name and the source address."""
        self._listeners, self._settings, self._report, self._new_report = listeners, settings, report, new_report
        self._live: set[Association] = set()
        self._hurry = False
        self._failing = 0
        self._changed = threading.Condition()

    def accept_until(self, wakeup: int) -> None:
        """Accept connections until the descriptor `wakeup` is readable."""
        poller = select.poll()
        by_fd = {listener.sock.fileno(): listener for listener in self._listeners}
        for listener in self._listeners:
            listener.sock.setblocking(False)  # another process may be quicker at the same socket
            poller.register(listener.sock, select.POLLIN)
        poller.register(wakeup, select.POLLIN)
        while True:
            ready = poller.poll()
            for fd, _ in ready:
                if fd == wakeup:
                    return
            for fd, _ in ready:
                self._accept(by_fd[fd], wakeup)

    def close(self) -> None:
        """Stop listening: whoever connects from now on is refused."""
        for listener in self._listeners:
            listener.sock.close()

    def drain(self, seconds: float) -> int:
        """Let open Associations end for so long, then abort the rest; return how many were aborted."""
        with self._changed:
            for association in self._live:
                association.hasten()
        self._wait_until_none(seconds)
        with self._changed:
            left = list(self._live)
        for association in left:
            association.stop()
        if left:
            self._wait_until_none(_ABORT_GRACE)
        return len(left)

    @property
    def idle(self) -> bool:
        """Whether no connection is being served."""
        with self._changed:
            return not self._live

    def hurry(self) -> None:
        """End a drain that is under way at once. May be called from a signal's Python handler."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def _wait_until_none(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._live and not self._hurry and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, _LONGEST_WAIT))
            self._hurry = False

    def _accept(self, listener: Listener, wakeup: int) -> None:
        try:
            sock, source = listener.sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._accept_failed(listener, wakeup, error)
            return
        self._failing = 0
        self._report.connected(listener.name)
        address = source_address(source[0])
        if not self._settings.admission.connect():
            self._report.refused(listener.name, address, "limits.connections are open")
            sock.close()
            return
        association: Association | None = None
        try:
            transport = PlainTransport(sock, send_timeout=self._settings.limits.request)
            association = Association(transport, address, self._settings, self._new_report(listener.name, address))
            with self._changed:
                self._live.add(association)
            thread = threading.Thread(target=self._serve, args=(association,), name="association", daemon=True)
            thread.start()
        except (OSError, RuntimeError, MemoryError) as error:
            # The peer is gone already, or there is no thread or memory to be had.
            self._report.refused(listener.name, address, str(error))
            sock.close()
            self._ended(association)

    def _accept_failed(self, listener: Listener, wakeup: int, error: OSError) -> None:
        """Say so once, not ten times a second; and wait a little, or the loop would spin."""
        if not self._failing:
            self._report.accept_failed(listener.name, error)
        self._failing += 1
        if error.errno in _OUT_OF_RESOURCES:
            pause = select.poll()
            pause.register(wakeup, select.POLLIN)
            pause.poll(_PAUSE * 1000)

    def _serve(self, association: Association) -> None:
        try:
            association.run()
        finally:
            self._ended(association)

    def _ended(self, association: Association | None) -> None:
        self._settings.admission.disconnect()
        with self._changed:
            if association is not None:
                self._live.discard(association)
            self._changed.notify_all()


def source_address(host: str) -> str:
    """The address as people write it: IPv4-mapped IPv6 (RFC 4291 §2.5.5.2) as IPv4, without a scope."""
    host = host.partition("%")[0]
    mapped = "::ffff:"
    return host.removeprefix(mapped) if host.startswith(mapped) and "." in host else host
