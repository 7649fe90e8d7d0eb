"""SIGKILL at random moments, under 8 Associations: of a worker, of all, of the supervisor, of everything.

The rule it keeps: moments and victims come from a seed, every process that is killed is one of this test's daemons, and
after each restart everything acknowledged by then is read again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.conftest import Figures
from tests.crash.senders import Ledger, Senders
from tests.crash.verdict import Verdict, judge, temporary_files
from tests.support.daemon import STOP_DEADLINE, Daemon
from tests.support.processes import descriptors
from tests.support.soak import soak_seconds

SEED = 1494
CI_SECONDS = 60
VICTIMS = {"worker": 5, "all workers": 1, "supervisor": 2, "everything": 3}
"""How often each is among the kills, in an order that chance makes anew whenever all have been had."""
VICTIMS_A_ROUND = sum(VICTIMS.values())
LONGEST_PAUSE = 0.6
"""Seconds between two kills, at most."""


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, found_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(found_group) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


class Victims:
    """The daemons of one store, one after another; the workers of a dead supervisor may still be at it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self._folder = folder
        self._begun = 0
        self._dead: list[Daemon] = []
        self.kills: Counter[str] = Counter()
        self.swept = 0
        self.complaints: list[str] = []
        self.daemon = self._next()

    def address(self) -> tuple[str, int]:
        return self.daemon.address

    def kill(self, victim: str) -> None:
        self.kills[victim] += 1
        if victim == "everything":
            self._kill_everything()
        elif victim == "supervisor":
            os.kill(self.daemon.pid, signal.SIGKILL)
            self._dead.append(self.daemon)
        else:
            workers = self._workers()
            for pid in workers if victim == "all workers" else workers[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Start the next one; nothing of what dead processes left in the temporary folder may survive that."""
        alone = not any(members(dead.pid) for dead in self._dead)
        left = temporary_files(self.root) if alone else set()
        self.daemon = self._next()
        assert not left & temporary_files(self.root)
        self.swept += len(left)

    def end(self) -> None:
        """Stop the last one in the ordinary way, and see nothing left of any."""
        self.daemon.stop()
        self._dead.append(self.daemon)
        self._bury()

    def abandon(self) -> None:
        """End all, whatever state they are in."""
        self._kill_everything()

    def _next(self) -> Daemon:
        self._begun += 1
        folder = self._folder / f"dicomd-{self._begun}"
        folder.mkdir()
        daemon = Daemon(
            folder,
            {
                "dicomd": {"workers": 2, "drain_timeout": "2s"},
                "storage": {"root": str(self.root)},
                "log": {"level": "info", "instances": False},
            },
        )
        try:
            daemon.start()
        except BaseException:
            if daemon.started:
                daemon.kill()
            raise
        return daemon

    def _workers(self) -> list[int]:
        """The processes of the present daemon that have an instance or its lock open, busiest first."""
        found = []
        for pid in members(self.daemon.pid):
            targets = descriptors(pid).values()
            if opened := sum("/.dicomd/" in target or target.endswith(".dcm") for target in targets):
                found.append((opened, pid))
        return [pid for _opened, pid in sorted(found, reverse=True) if pid != self.daemon.pid]

    def _kill_everything(self) -> None:
        for daemon in (*self._dead, self.daemon):
            for pid in members(daemon.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.daemon not in self._dead:
            self._dead.append(self.daemon)
        self._bury()

    def _bury(self) -> None:
        """Reap the dead, see that nobody outlives them, and keep what they complained of."""
        for daemon in self._dead:
            daemon.wait()
            deadline = time.monotonic() + STOP_DEADLINE
            while left := members(daemon.pid):
                assert time.monotonic() < deadline, f"processes {left} outlive their supervisor"
                time.sleep(0.02)
            self.complaints += daemon.complaints()
        self._dead.clear()


def prune(verdict: Verdict, ledger: Ledger, acknowledged: dict[str, bytes]) -> None:
    """Delete what was acknowledged and is verified, as a router does that has passed it on."""
    for uid in acknowledged:
        verdict.whole[uid].unlink()
        ledger.forget(uid)


def rehearse(folder: Path, seconds: float, figures: Figures) -> None:
    """Kill and look, for so many seconds."""
    chance = random.Random(SEED)
    deck: list[str] = []
    verified = 0
    victims = Victims(folder)
    ends = time.monotonic() + seconds
    try:
        with Senders(victims.address, seed=SEED) as senders:
            ledger = senders.ledger
            while deck or not verified or time.monotonic() < ends:
                deck = deck or chance.sample(list(VICTIMS), VICTIMS_A_ROUND, counts=list(VICTIMS.values()))
                time.sleep(chance.uniform(0, LONGEST_PAUSE))  # the random moment
                victim = deck.pop()
                victims.kill(victim)
                if victim not in ("supervisor", "everything"):
                    continue
                victims.restart()
                acknowledged = dict(ledger.acknowledged)
                verdict = judge(victims.root, ledger.sent, acknowledged)
                assert not verdict.broken, verdict
                verified += len(acknowledged)
                prune(verdict, ledger, acknowledged)
        verdict = judge(victims.root, ledger.sent, ledger.acknowledged)
        assert not verdict.broken, verdict
        verified += len(ledger.acknowledged)
        victims.daemon.wait_no_temporary_files()
        victims.end()
        assert temporary_files(victims.root) == set()
        assert list((victims.root / ".dicomd" / "locks").iterdir()) == []
        figures(
            kills=victims.kills.total(),
            **{f"kills_of_{victim.replace(' ', '_')}": victims.kills[victim] for victim in VICTIMS},
            acknowledged=ledger.total,
            verified=verified,
            sent_again=ledger.resent,
            temporary_files_swept_at_starts=victims.swept,
        )
        assert victims.complaints == []
        assert ledger.refusals == []
        assert verified == ledger.total > 0
        assert set(victims.kills) == set(VICTIMS)
        assert ledger.resent > 0
    finally:
        victims.abandon()


@pytest.mark.slow
@pytest.mark.timeout(CI_SECONDS + 240)
def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path, figures: Figures) -> None:
    rehearse(tmp_path, CI_SECONDS, figures)


@pytest.mark.soak
@pytest.mark.timeout(soak_seconds(0.4) + 600)
def test_nothing_acknowledged_is_lost_by_kills_for_long(tmp_path: Path, figures: Figures) -> None:
    rehearse(tmp_path, soak_seconds(0.4), figures)
