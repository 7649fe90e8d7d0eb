"""The same SOP Instance UID from several senders at the same moment, to two workers; then the store is verified."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.daemon import Daemon
from tests.support.objects import Instance, instance
from tests.support.raw_peer import DEADLINE, RawPeer, store_message
from tests.support.workers import one_association_each

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

SENDERS = 6
ROUNDS = 8


def variants(first: Instance, different: int) -> list[Instance]:
    """One instance for each sender, all under one UID, with `different` Data Sets among them."""
    return [
        replace(first, data_set=first.data_set[:-1] + bytes([first.data_set[-1] ^ (number % different)]))
        for number in range(SENDERS)
    ]


def at_once(peers: list[RawPeer], instances: list[Instance]) -> list[str]:
    """Send all but the last bytes, then these from all peers at once; return the statuses."""
    together = threading.Barrier(len(peers))

    def send(peer: RawPeer, sent: Instance) -> str:
        message = store_message(sent)
        peer.send(message[:-10])
        together.wait(DEADLINE)
        peer.send(message[-10:])
        return f"{peer.read_message().status:04X}"

    with ThreadPoolExecutor(len(peers)) as pool:
        return list(pool.map(send, peers, instances))


def verify_store(daemon: Daemon) -> str:
    """The output of `dicomd verify-store` while the daemon runs; it must find no problem."""
    command = [sys.executable, "-m", "dicomd", "verify-store", "--config", str(daemon.config_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("different", [1, 2, 3])
@pytest.mark.parametrize("policy", ["keep-both", "replace", "reject"])
def test_equal_uids_at_once_over_two_workers(
    start_daemon: StartDaemon, connect: Connect, policy: str, different: int
) -> None:
    daemon = start_daemon(storage={"duplicates": policy}, dicomd={"workers": 2})
    peers = list(one_association_each(daemon, connect).values())
    for _ in range(SENDERS - len(peers)):
        peers.append(connect(daemon))
        peers[-1].associate()
    files = 0
    for _ in range(ROUNDS):
        first = instance(size=20_000)
        sent = variants(first, different)
        statuses = at_once(peers, sent)
        stored = [file.data_set for file in daemon.stored(first.sop_instance_uid)]
        acknowledged = {one.data_set for one, status in zip(sent, statuses, strict=True) if status == "0000"}
        assert set(stored) <= {one.data_set for one in sent}
        assert len(stored) == len(set(stored))  # never two files with the same bytes
        if policy == "reject":
            assert len(stored) == 1
            assert acknowledged == set(stored)
            assert Counter(statuses) == Counter("0000" if one.data_set == stored[0] else "C010" for one in sent)
        else:
            assert statuses == ["0000"] * SENDERS
            assert len(stored) == (different if policy == "keep-both" else 1)
        files += len(stored)
    for peer in peers:
        peer.release()
    daemon.wait_no_temporary_files()
    assert len(daemon.paths()) == files
    assert f": {files} instances OK" in verify_store(daemon)
