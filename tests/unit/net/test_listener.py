"""The accept loop, in situations that can't be produced at will with a running daemon."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicomd.net.deadlines import TimeLimits
from dicomd.net.listener import ConnectionAcceptor, ListeningSocket, bind
from tests.support.waiting import wait_until


class Siblings:
    """Another process that accepts on the same sockets and may be busier."""

    def __init__(self, *, should_yield: bool) -> None:
        self._gives_way = should_yield
        self.wakeups = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self.made = 0

    def should_yield(self) -> bool:
        return self._gives_way

    def wake_sibling(self) -> None:
        self.made += 1

    def take_wakeup(self) -> bool:
        return bool(os.eventfd_read(self.wakeups))


class Accepting(ConnectionAcceptor):
    """Accepts connections and records on which listener."""

    def __init__(self, listeners: list[ListeningSocket], siblings: Siblings | None = None) -> None:
        nothing: Any = SimpleNamespace(tls=None, limits=TimeLimits())
        super().__init__(listeners, nothing, nothing, nothing, siblings or Siblings(should_yield=False))
        self.accepted: list[str] = []

    def _accept(self, listener: ListeningSocket, wakeup: int) -> None:
        try:
            listener.sock.accept()[0].close()
        except OSError:  # accepted by another process, or no descriptor is free
            return
        self.accepted.append(listener.name)


@pytest.fixture
def listeners() -> Iterator[list[ListeningSocket]]:
    found = [bind("one", "127.0.0.1", 0), bind("two", "127.0.0.1", 0)]
    yield found
    for listener in found:
        listener.sock.close()


@pytest.fixture
def wakeup() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


def connect(listener: ListeningSocket) -> socket.socket:
    return socket.create_connection(listener.sock.getsockname())


def serve_until(acceptor: Accepting, wakeup: int, *accepted: str) -> None:
    """Serve until connections on these listeners have been accepted; they may take a moment to arrive."""

    def done() -> bool:
        acceptor.serve(wakeup, 0.01)
        return len(acceptor.accepted) >= len(accepted)

    wait_until(done)
    assert sorted(acceptor.accepted) == sorted(accepted)


def test_to_wait_for_connections_takes_no_descriptor(listeners: list[ListeningSocket], wakeup: int) -> None:
    acceptor = Accepting(listeners)
    taken: list[int] = []
    with connect(listeners[0]):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())  # including those of other tests
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 16), hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(os.dup(wakeup))
            with pytest.raises(OSError, match="Too many open files"):
                select.epoll()
            acceptor.serve(wakeup, 0.01)
            assert acceptor.accepted == []
            os.close(taken.pop())
            serve_until(acceptor, wakeup, "one")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)


def test_a_connection_that_another_was_woken_for_is_found_at_the_next_look(
    listeners: list[ListeningSocket], wakeup: int
) -> None:
    with connect(listeners[1]):
        acceptor = Accepting(listeners)
        serve_until(acceptor, wakeup, "two")


def test_who_gives_way_calls_and_accepts_what_nobody_has_taken(listeners: list[ListeningSocket], wakeup: int) -> None:
    siblings = Siblings(should_yield=True)
    acceptor = Accepting(listeners, siblings)
    with connect(listeners[0]):
        serve_until(acceptor, wakeup, "one")
    assert siblings.made == 1


def test_a_call_is_answered_on_every_listener(listeners: list[ListeningSocket], wakeup: int) -> None:
    siblings = Siblings(should_yield=True)
    acceptor = Accepting(listeners, siblings)
    os.eventfd_write(siblings.wakeups, 1)
    with connect(listeners[0]), connect(listeners[1]):
        serve_until(acceptor, wakeup, "one", "two")
    assert siblings.made == 0


def test_who_stops_accepting_calls_the_others(listeners: list[ListeningSocket], wakeup: int) -> None:
    siblings = Siblings(should_yield=False)
    acceptor = Accepting(listeners, siblings)
    acceptor.serve(wakeup, 0.01)
    acceptor.close()
    acceptor.serve(wakeup, 0.01)
    assert siblings.made == 1
