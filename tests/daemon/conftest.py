"""Daemons for these tests: a shared one per module if the default configuration suffices, otherwise one per test.

Invariant: every daemon is entered as a context manager, so after its tests it passes `Daemon.check_health` and stops
with exit status 0, and none is left running whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
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
    numbers = count()
    with ExitStack() as daemons:

        def start(**overrides: Any) -> Daemon:
            folder = tmp_path / f"dicomd-{next(numbers)}"
            folder.mkdir()
            return daemons.enter_context(Daemon(folder, overrides))

        yield start


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon shared by the tests of a module; each test finds its own instances by their UIDs."""
    with Daemon(tmp_path_factory.mktemp("dicomd")) as daemon:
        yield daemon


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
    with Daemon(tmp_path_factory.mktemp("dicomd"), overrides) as daemon:
        yield daemon
