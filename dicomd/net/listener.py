"""The accept loop: accepts connections, gives each a thread, and drains them at a stop.

Invariant: the loop never waits for what a peer sends or doesn't send. A connection that can't be served (too many, no
thread, no descriptor) is closed and counted, and the loop continues.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from dicomd.net.acceptor_settings import AcceptorSettings
from dicomd.net.access import Network, in_networks, normal_address
from dicomd.net.association import Association
from dicomd.net.connections import ConnectionReport
from dicomd.net.report import AssociationReport
from dicomd.net.thread_pool import ThreadPool
from dicomd.net.tls import TlsTransport
from dicomd.net.transport import PlainTransport, prepare_listening

BACKLOG = 512
"""Connections that may wait in the kernel while a burst is accepted."""
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
_PAUSE = 100  # milliseconds; without it, the loop would spin while there are no descriptors left to accept with
_YIELD_MS = 5  # milliseconds that a less busy process has to accept a connection, checked after each


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A listening socket, its name in metrics and logs, and whether it speaks TLS.

    With `balancers`, it accepts connections only from these networks, and each must begin with a PROXY header.
    """

    name: str
    sock: socket.socket
    tls: bool = False
    balancers: tuple[Network, ...] = ()


class SiblingWorkers(Protocol):
    """The other processes that accept on the same sockets. A connection wakes only one process, not all of them."""

    def should_yield(self) -> bool:
        """Whether another process should get the next connection, as it is less busy."""

    def wake_sibling(self) -> None:
        """Wake one of them to accept it."""

    @property
    def wakeups(self) -> int:
        """A descriptor that is readable while a wake-up is pending."""

    def take_wakeup(self) -> bool:
        """Take a wake-up; False if another process was quicker."""


def bind(name: str, address: str, port: int) -> ListeningSocket:
    """Listen on an address, IPv4 or IPv6; "::" includes IPv4. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ListeningSocket(
        name,
        socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=family == socket.AF_INET6),
    )


class ConnectionAcceptor:
    """Accepts connections on `listeners` and serves each in a thread of its own."""

    def __init__(
        self,
        listeners: Sequence[ListeningSocket],
        settings: AcceptorSettings,
        report: ConnectionReport,
        new_report: Callable[[str, str], AssociationReport],
        siblings: SiblingWorkers,
    ) -> None:
        """`new_report` makes the report of an Association from the listener's name and the source address.

        `siblings` are the other processes that accept on the same sockets; there may be none of them at the moment.
        Raises ValueError if a listener needs TLS and `settings` have no TLS context.
        """
        self._contexts: dict[str, ssl.SSLContext] = {}
        for listener in listeners:
            if listener.tls:
                if settings.tls is None:
                    raise ValueError(f"{listener.name} needs TLS, but there are no settings for it")
                self._contexts[listener.name] = settings.tls
        self._listeners = listeners
        self._settings = settings
        self._report = report
        self._new_report = new_report
        self._siblings = siblings
        self._threads = ThreadPool("association")
        self._live: set[Association] = set()
        self._failing = 0
        self._changing = threading.Lock()
        self._closed = False
        self._last_ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller = select.epoll()  # kept open: when descriptors run out, a new one couldn't be made
        for listener in listeners:
            listener.sock.setblocking(False)  # another process may accept the connection first
            prepare_listening(listener.sock, settings.limits.request)

    def serve(self, wakeup: int, seconds: float) -> None:
        """Accept connections until the descriptor `wakeup` is readable, for `seconds` at most.

        After `close` none is accepted, and the wait also ends when the last connection has ended.
        """
        ends = time.monotonic() + seconds
        by_fd = {} if self._closed else {listener.sock.fileno(): listener for listener in self._listeners}
        watched = {wakeup: select.EPOLLIN} | dict.fromkeys(by_fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        if self._closed:
            watched[self._last_ended] = select.EPOLLIN
        else:
            watched[self._siblings.wakeups] = select.EPOLLIN | select.EPOLLEXCLUSIVE
        try:
            # Register each time: registering reports pending connections that another process was woken for, but left.
            for fd, events in watched.items():
                self._poller.register(fd, events)
            while (left := ends - time.monotonic()) > 0:
                ready = {fd for fd, _ in self._poller.poll(left)}
                if wakeup in ready or self._last_ended in ready:
                    return
                for fd in self._ready_for_this_process(ready, by_fd.keys(), wakeup):
                    self._accept(by_fd[fd], wakeup)
        finally:
            for fd in watched:
                with contextlib.suppress(FileNotFoundError):  # registering it had failed
                    self._poller.unregister(fd)

    def _ready_for_this_process(
        self, ready: AbstractSet[int], listening: AbstractSet[int], wakeup: int
    ) -> AbstractSet[int]:
        """Return the listening sockets to accept on: those that are `ready`, or all of them after a wake-up."""
        siblings = self._siblings
        if siblings.wakeups in ready and siblings.take_wakeup():
            return listening  # only the process that sent it knows which of them has a connection
        ready = ready & listening
        if ready and siblings.should_yield():
            siblings.wake_sibling()
            self._wait_for_sibling(ready, wakeup)
        return ready

    def _wait_for_sibling(self, ready: AbstractSet[int], wakeup: int) -> None:
        """Wait until another process has accepted what is `ready`, or has had the time to do so."""
        waiting = select.poll()
        for fd in ready:
            waiting.register(fd, select.POLLIN)
        for _ in range(_YIELD_MS):
            _wait_for(wakeup, 1)
            if not waiting.poll(0):
                return

    def close(self) -> None:
        """Stop listening. Open Associations continue; those already over no longer wait for their peers to close."""
        if not self._closed:
            # This process may have been woken for a connection that it will no longer accept.
            self._siblings.wake_sibling()
        for listener in self._listeners:
            listener.sock.close()
        with self._changing:
            self._closed = True
            for association in self._live:
                association.skip_close_wait()
            self._signal_if_idle()

    def abort(self, why: str) -> int:
        """Abort all open Associations; return how many connections there were. `why` is for their log lines."""
        with self._changing:
            left = list(self._live)
        for association in left:
            association.stop(why)
        return len(left)

    @property
    def connections(self) -> int:
        """How many connections are being served."""
        return len(self._live)

    @property
    def idle(self) -> bool:
        """Whether no connection is being served."""
        with self._changing:
            return not self._live

    def _accept(self, listener: ListeningSocket, wakeup: int) -> None:
        try:
            sock, source = listener.sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._accept_failed(listener, wakeup, error)
            return
        self._failing = 0
        self._report.connected(listener.name)
        address = normal_address(source[0])
        rule = "listen.proxy_protocol" if listener.balancers else "peers.addresses"
        if reason := self._refuses(listener, address):
            self._report.refused(listener.name, address, reason, rule=rule)
            sock.close()
            return
        if not self._settings.admission.connect():
            self._report.refused(listener.name, address, "limits.connections are open", limit="connections")
            sock.close()
            return
        association: Association | None = None
        try:
            transport = self._transport(listener, sock)
            report = self._new_report(listener.name, address)
            transport.proxy_header_pending = bool(listener.balancers)
            association = Association(transport, address, self._settings, report)
            with self._changing:
                self._live.add(association)
            self._threads.assign(partial(self._serve, association))
        except (OSError, RuntimeError, MemoryError) as error:
            # The peer is already gone, or there is no thread or memory for it.
            self._report.refused(listener.name, address, str(error))
            sock.close()
            self._ended(association)

    def _refuses(self, listener: ListeningSocket, address: str) -> str:
        """Say why this address is refused, "" if it isn't. A peer behind a balancer is judged by its PROXY header."""
        if not listener.balancers:
            return self._settings.admission.rules.refuses_address(address)
        if in_networks(address, listener.balancers):
            return ""
        return f"not one of the balancers in proxy_protocol of {listener.name}: add its address there"

    def _transport(self, listener: ListeningSocket, sock: socket.socket) -> PlainTransport:
        send_timeout = self._settings.limits.request
        context = self._contexts.get(listener.name)
        if context is None:
            return PlainTransport(sock, send_timeout=send_timeout)
        return TlsTransport(sock, context, send_timeout=send_timeout)

    def _accept_failed(self, listener: ListeningSocket, wakeup: int, error: OSError) -> None:
        """Report the first failure only, not ten a second; and pause, or the loop would spin."""
        if not self._failing:
            self._report.accept_failed(listener.name, error)
        self._failing += 1
        if error.errno in _OUT_OF_RESOURCES:
            self._siblings.wake_sibling()  # the connection woke only this process
            _wait_for(wakeup, _PAUSE)

    def _serve(self, association: Association) -> None:
        try:
            association.run()
        finally:
            self._ended(association)

    def _ended(self, association: Association | None) -> None:
        try:
            self._settings.admission.disconnect(admitted=association is not None and association.was_admitted)
        finally:
            with self._changing:
                if association is not None:
                    self._live.discard(association)
                self._signal_if_idle()

    def _signal_if_idle(self) -> None:
        if self._closed and not self._live:
            os.eventfd_write(self._last_ended, 1)


def _wait_for(wakeup: int, milliseconds: int) -> None:
    poller = select.poll()  # select(2) can't handle descriptors above 1023
    poller.register(wakeup, select.POLLIN)
    poller.poll(milliseconds)
