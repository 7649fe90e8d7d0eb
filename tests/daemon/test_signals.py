"""Signals at the worst moment: none is lost, and SIGHUP never stops the daemon."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.daemon import Daemon
from tests.support.raw_peer import RawPeer

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own


@contextmanager
def connections_coming_and_going(daemon: Daemon) -> Iterator[None]:
    """Keep the accept loop busy with short connections."""
    over = threading.Event()

    def connect_and_leave() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                socket.create_connection(daemon.address, timeout=1).close()

    threads = [threading.Thread(target=connect_and_leave) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.timeout(180)
def test_sigterm_right_behind_a_connection_is_not_lost(start_daemon: StartDaemon) -> None:
    """A signal between Python's last check for signals and the blocking system call must still end the wait."""
    for _ in range(10):
        daemon = start_daemon()
        with RawPeer(daemon.address) as peer:
            peer.associate()
            daemon.signal(signal.SIGTERM)
            daemon.wait_logged("stopping", deadline=5)
            peer.release()
        assert daemon.wait() == 0


def test_sighup_while_the_daemon_logs_does_not_stop_it(start_daemon: StartDaemon, connect: Connect) -> None:
    """A handler interrupts the main thread at any point, even while it holds locks."""
    daemon = start_daemon(limits={"connections": 2})
    held = connect(daemon)
    held.associate()
    with connections_coming_and_going(daemon):  # refused, with a log line each
        for _ in range(40):
            seen = len(daemon.records)
            for _ in range(200):
                daemon.signal(signal.SIGHUP)
            daemon.wait_for(lambda record: True, since=seen)
    assert held.echo().status == 0
    held.release()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_sigterm_again_and_again_still_ends_with_success(start_daemon: StartDaemon) -> None:
    """Up to the interpreter's own shutdown: a stop that has begun must not end as a death by signal."""
    for _ in range(3):
        daemon = start_daemon()
        with contextlib.suppress(ProcessLookupError):
            while daemon.running:
                daemon.signal(signal.SIGTERM)
                time.sleep(0.002)  # a very impatient operator
        assert daemon.wait() == 0
