"""A hostile network: many that say nothing, stall or drip, and names that would be paths (CONTRACT 3, 4, 5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.part10 import read_part10
from tests.support.raw_peer import RawPeer, associate_rq, store_message

SILENT, STALLED, DRIPPING = 500, 100, 100
LIMIT = 8
"""Seconds of each deadline here."""
LATE = 60.0
"""Seconds that a busy machine may need to cut them all."""


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
        """A byte now and then, of an A-ASSOCIATE-RQ from one half and of an object from the other."""
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
        # Who drips within an object keeps the idle limit, so here it is the end of its bytes that cuts it.
        for peer in crowd[: SILENT + STALLED : 10]:
            peer.sock.settimeout(LATE)
            assert peer.read_to_the_end() == []
    finally:
        over.set()
        dripper.join()
    deadline = time.monotonic() + LATE
    while any(worker["connections"] for worker in crowded.status()["workers"]):
        assert time.monotonic() < deadline, "not all have been cut"
        time.sleep(0.1)
    assert len(crowded.paths()) == 20
    crowded.wait_no_temporary_files()


TITLES = {
    b"..": True,
    b"../../../tmp/x": True,
    b"/etc/passwd": True,
    b"A/B": True,
    b"A\0B": False,
    b"..\\..": False,
    b"\xe9\xff": False,
    b"A\nB": False,
    b"": False,
}


@pytest.mark.parametrize("title", TITLES, ids=repr)
def test_a_calling_ae_title_is_no_path(receiver: Daemon, connect: Connect, title: bytes) -> None:
    """One that VR AE allows goes into File Meta Information and nowhere else; another is rejected (1/1/3)."""
    request = bytearray(associate_rq())
    request[26:42] = title.ljust(16)
    request[10:26] = b"../../called".ljust(16)
    peer = connect()
    peer.send(bytes(request))
    if not TITLES[title]:
        assert peer.read_rejection() == (1, 1, 3)
        return
    assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
    one = instance()
    assert peer.store(one).status == 0
    peer.release()
    (path,) = [path for path in receiver.paths() if one.sop_instance_uid in path.name]
    assert path.resolve().is_relative_to(receiver.root.resolve())
    assert path.name == f"{one.sop_instance_uid}.dcm"
    assert read_part10(path).data_set == one.data_set
    assert {entry.name for entry in receiver.root.parent.iterdir()} == {"store", "dicomd.toml"}
