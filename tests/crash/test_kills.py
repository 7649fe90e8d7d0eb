"""SIGKILL at random moments, under 8 Associations: to one worker, to all, to the supervisor, to everything.

Moments and victims come from a seed, every process that is killed belongs to this test's daemons, and after each
restart everything acknowledged by then is read again.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.crash.conftest import Figures
from tests.crash.senders import Ledger, Senders
from tests.crash.verdict import Verdict, judge, temporary_files
from tests.crash.victims import VICTIMS, VICTIMS_A_ROUND, Victims
from tests.support.soak import soak_seconds

SEED = 1494
UNFILED = 0.2
"""The share of instances that can't be filed, and are kept nevertheless."""
CI_SECONDS = 60
SOAK_SHARE = 0.08
WINDOW = 8
LONGEST_PAUSE = 0.6
"""Seconds at most between two kills."""


def prune(verdict: Verdict, ledger: Ledger, acknowledged: dict[str, bytes]) -> None:
    """Delete acknowledged and verified instances, as a router does after forwarding them."""
    for uid in acknowledged:
        verdict.whole[uid].unlink()
        ledger.forget(uid)


def rehearse(folder: Path, seconds: float, figures: Figures, operations: int = 1) -> None:
    """Kill and verify for this many seconds, with so many operations outstanding on each Association."""
    chance = random.Random(SEED)
    deck: list[str] = []
    verified = unfiled = 0
    victims = Victims(folder, unfiled="keep")
    ends = time.monotonic() + seconds
    try:
        with Senders(victims.address, seed=SEED, unfiled=UNFILED, operations=operations) as senders:
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
                unfiled += sum(verdict.whole[uid].parent.name == "unfiled" for uid in acknowledged)
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
            of_these_unfiled=unfiled,
            sent_again=ledger.resent,
            temporary_files_swept_at_starts=victims.swept,
        )
        assert victims.complaints == []
        assert ledger.refusals == []
        assert verified == ledger.total > 0
        assert unfiled > 0
        assert set(victims.kills) == set(VICTIMS)
        assert ledger.resent > 0
    finally:
        victims.abandon()


@pytest.mark.slow
@pytest.mark.timeout(CI_SECONDS + 240)
def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path, figures: Figures) -> None:
    rehearse(tmp_path, CI_SECONDS, figures)


@pytest.mark.slow
@pytest.mark.timeout(CI_SECONDS + 240)
def test_nothing_acknowledged_is_lost_by_kills_with_a_window(tmp_path: Path, figures: Figures) -> None:
    rehearse(tmp_path, CI_SECONDS / 2, figures, WINDOW)


@pytest.mark.soak
@pytest.mark.timeout(soak_seconds(SOAK_SHARE) + 600)
def test_nothing_acknowledged_is_lost_by_kills_for_long(tmp_path: Path, figures: Figures) -> None:
    rehearse(tmp_path, soak_seconds(SOAK_SHARE), figures)
