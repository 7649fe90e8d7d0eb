"""A hostile network: many connections that are silent, stall or drip (CONTRACT 3)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from bench.crowd import REQUEST_TIMEOUT, Crowd
from bench.crowd import kinds as crowd_kinds
from tests.daemon.conftest import TLS_LISTENER, StartDaemon
from tests.support.certificates import Pki
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.raw_peer import RawPeer, associate_rq, store_message
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

SILENT, STALLED, DRIPPING = 500, 100, 100
LIMIT = 8
"""Each deadline in these tests, in seconds."""
LATE = 60.0
"""Seconds that a busy machine may need to cut all of them."""


@pytest.fixture
def crowded(start_daemon: StartDaemon) -> Daemon:
    limits = {"request_timeout": f"{LIMIT}s", "association_idle": f"{LIMIT}s", "minimum_rate": "0B/s"}
    limits |= {"associations_per_peer": 200}
    return start_daemon(limits=limits)


@pytest.fixture
def crowd(crowded: Daemon) -> Iterator[list[RawPeer]]:
    with ExitStack() as open_ones:
        yield [open_ones.enter_context(RawPeer(crowded.address)) for _ in range(SILENT + STALLED + DRIPPING)]


@pytest.mark.timeout(240)
def test_a_crowd_that_says_little_keeps_nobody_from_storing_and_is_cut(crowded: Daemon, crowd: list[RawPeer]) -> None:
    request, drip = associate_rq(), store_message(instance(size=50_000))
    for peer in crowd[SILENT : SILENT + STALLED]:
        peer.send(request[: len(request) // 2])
    over = threading.Event()

    def trickle() -> None:
        """Send a byte now and then: one half of the peers an A-ASSOCIATE-RQ, the other half an object."""
        dripping = list(crowd[SILENT + STALLED :])
        for count, peer in enumerate(dripping):
            if count % 2:
                peer.send(request + drip[:1000])
        at = 0
        while not over.wait(0.2) and dripping:
            for count, peer in enumerate(dripping):
                try:
                    peer.send(drip[1000 + at : 1001 + at] if count % 2 else request[at : at + 1])
                except OSError:  # cut
                    continue
            at += 1

    dripper = threading.Thread(target=trickle)
    dripper.start()
    try:
        with RawPeer(crowded.address, calling="HEALTHY") as healthy:
            healthy.associate()
            for _ in range(20):
                assert healthy.store(instance(size=100_000)).status == 0
            healthy.release()
        # A peer that drips within an object respects the idle limit, so it is cut only after its bytes have run out.
        for peer in crowd[: SILENT + STALLED : 10]:
            peer.read_end(LATE)
    finally:
        over.set()
        dripper.join()
    wait_until(crowded.connections, LATE, equals=0, what="some connections have not been cut", pause=0.1)
    assert len(crowded.paths()) == 20
    crowded.wait_no_temporary_files()


@pytest.mark.timeout(240)
def test_each_kind_is_cut_at_its_deadline_and_counted(start_daemon: StartDaemon, pki: Pki) -> None:
    """With handshakes and dripped objects: a tenth of the crowd of `./scripts/bench --crowd`, at its minimum rate."""
    request_timeout = 4.0
    daemon = start_daemon(
        listen=[{"name": "plain", "address": "127.0.0.1:0"}, TLS_LISTENER],
        tls=pki.tls(),
        limits={"request_timeout": f"{request_timeout}s"},
    )
    sooner = REQUEST_TIMEOUT - request_timeout
    kinds = [replace(kind, count=kind.count // 10, deadline=kind.deadline - sooner) for kind in crowd_kinds()]
    with Crowd(kinds, daemon.listener("plain")[1], daemon.listener("tls")[1]) as silent_and_slow:
        silent_and_slow.wait_for(silent_and_slow.size, LATE)
        silent_and_slow.let_go()
        with RawPeer(daemon.listener("plain"), calling="HEALTHY") as healthy:
            healthy.associate()
            for _ in range(20):
                assert healthy.store(instance(size=100_000)).status == 0
            healthy.release()
        tallies = silent_and_slow.wait_for(0, 30 + LATE)
    for kind in kinds:
        tally = tallies[kind.name]
        assert tally.refused == 0, kind.name
        assert tally.cut == tally.opened >= kind.count, kind.name
        assert -0.2 <= tally.earliest <= tally.latest <= LATE, kind.name
    dripped = tallies["drips of an object"].cut
    rest = sum(tally.cut for tally in tallies.values()) - dripped
    daemon.wait_metric("dicomd_limit_hits_total", rest, limit="request_timeout")
    daemon.wait_metric("dicomd_limit_hits_total", dripped, limit="minimum_rate")
    daemon.check_health()  # descriptors and threads are as at the start
    assert len(daemon.paths()) == 20
