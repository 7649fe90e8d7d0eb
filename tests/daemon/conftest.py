"""Daemons for these tests: a shared one per module if the default configuration suffices, otherwise one per test.

Invariant: after its tests every daemon passes `Daemon.check_health` and stops with exit status 0, and none is left
running whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Pki
from tests.support.daemon import Daemon
from tests.support.raw_peer import RawPeer
from tests.support.relay import Relay

StartDaemon = Callable[..., Daemon]
Connect = Callable[..., RawPeer]

TLS_LISTENER = {"name": "tls", "address": "127.0.0.1:0", "tls": True}


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Start a daemon with these tables of its configuration: ``start_daemon(storage={"duplicates": "reject"})``."""
    daemons: list[Daemon] = []

    def start(**overrides: Any) -> Daemon:
        folder = tmp_path / f"dicomd-{len(daemons)}"
        folder.mkdir()
        daemon = Daemon(folder, overrides)
        daemons.append(daemon)
        daemon.start()
        return daemon

    yield start
    _look_over_and_stop(daemons)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon shared by the tests of a module; each test finds its own instances by their UIDs."""
    daemon = Daemon(tmp_path_factory.mktemp("dicomd"))
    try:
        daemon.start()
        yield daemon
    finally:
        _look_over_and_stop([daemon])


@pytest.fixture
def relay(receiver: Daemon) -> Iterator[Relay]:
    """A recording relay in front of the shared daemon. The store is emptied, since senders resend the same samples."""
    receiver.empty()
    with Relay(receiver.address) as relay:
        yield relay


@pytest.fixture
def connect(receiver: Daemon) -> Iterator[Connect]:
    """Open a connection to the shared daemon, or to the one given. It is closed after the test."""
    peers: list[RawPeer] = []

    def open_connection(daemon: Daemon | None = None, **options: Any) -> RawPeer:
        peer = RawPeer((daemon or receiver).address, **options)
        peers.append(peer)
        return peer

    yield open_connection
    for peer in peers:
        peer.sock.close()


def _look_over_and_stop(daemons: list[Daemon]) -> None:
    """Check and stop all daemons, even if one fails: none may be left running."""
    failures = []
    for daemon in daemons:
        try:
            if daemon.running:
                daemon.check_health()
                daemon.stop()
        except AssertionError as failure:
            failures.append(failure)
        finally:
            if daemon.running:
                daemon.kill()
        if daemon.port and (complaints := daemon.complaints()):  # otherwise its failed start has been reported already
            failures.append(AssertionError("dicomd logged:\n" + "\n".join(complaints[:10])))
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def secure(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that requests a certificate from peers, but also accepts peers without one."""
    overrides = {
        "listen": [TLS_LISTENER],
        "tls": pki.tls(client_ca=pki.trusted, client_certificate="optional"),
        "limits": {"request_timeout": "20s"},
    }
    daemon = Daemon(tmp_path_factory.mktemp("dicomd"), overrides)
    try:
        daemon.start()
        yield daemon
    finally:
        _look_over_and_stop([daemon])
