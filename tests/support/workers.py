"""Opens Associations with chosen workers of a daemon."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.daemon import Daemon
from tests.support.raw_peer import RawPeer
from tests.support.waiting import wait_until


def one_association_each(daemon: Daemon, connect: Callable[..., RawPeer]) -> dict[int, RawPeer]:
    """Open an Association with every worker, by pid. On a busy machine they don't accept in turn, so this retries."""
    found: dict[int, RawPeer] = {}
    for _ in range(50):
        before = {worker["pid"]: worker["associations"] for worker in daemon.status()["workers"]}
        if len(found) == len(before):
            return found
        peer = connect(daemon)
        peer.associate()
        now = {worker["pid"]: worker["associations"] for worker in daemon.status()["workers"]}
        (pid,) = (pid for pid in now if now[pid] > before[pid])
        if pid in found:
            peer.release()
            wait_until(daemon.connections, equals=len(found))
        else:
            found[pid] = peer
    raise AssertionError("one worker accepts no connections")
