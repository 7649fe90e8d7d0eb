"""Work is done by an idle thread if there is one, else by a new one."""

from __future__ import annotations

import queue
import threading

import pytest

from dicomd.net import thread_pool
from dicomd.net.thread_pool import ThreadPool
from tests.support.waiting import wait_until
from tests.unit.net.observed_locks import Waits


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def done_by(team: ThreadPool) -> threading.Thread:
    """The thread that does a piece of work given to `team`."""
    found: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    team.assign(lambda: found.put(threading.current_thread()))
    return found.get(timeout=10)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "_STAYS", 0.2)


def test_an_idle_thread_takes_the_next_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "_STAYS", 60)
    idle = Waits(monkeypatch, thread_pool)
    team = ThreadPool("again")
    first = done_by(team)
    for _ in range(20):
        idle.next()
        assert done_by(team) is first
    idle.next()
    monkeypatch.setattr(thread_pool, "_STAYS", 0)
    assert done_by(team) is first
    wait_until(lambda: threads("again"), equals=[])


def test_nobody_waits_for_a_busy_thread() -> None:
    team = ThreadPool("busy")
    may_end = threading.Event()
    for _ in range(5):
        team.assign(may_end.wait)
    assert done_by(team)
    assert len(threads("busy")) >= 5
    may_end.set()
    wait_until(lambda: threads("busy"), equals=[])
    assert done_by(team)  # none of those that have ended is taken for idle


def test_no_more_than_so_many_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "_STAYS", 60)
    monkeypatch.setattr(thread_pool, "_MOST_IDLE", 2)
    idle = Waits(monkeypatch, thread_pool)
    team = ThreadPool("many")
    may_end = threading.Event()
    for _ in range(6):
        team.assign(may_end.wait)
    may_end.set()
    idle.next()
    idle.next()
    wait_until(lambda: len(threads("many")), equals=2)
    assert idle.none()
    monkeypatch.setattr(thread_pool, "_STAYS", 0)
    for _ in range(2):  # once they have done this they end
        team.assign(lambda: None)
    wait_until(lambda: threads("many"), equals=[])


def test_none_is_lost_between_staying_and_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "_STAYS", 0.0005)
    team = ThreadPool("quick")
    for _ in range(2000):
        done_by(team)
    wait_until(lambda: threads("quick"), equals=[])


def test_what_was_done_is_let_go() -> None:
    class Work:
        def __call__(self) -> None:
            pass

        def __del__(self) -> None:
            gone.set()

    gone = threading.Event()
    team = ThreadPool("gone")
    team.assign(Work())
    assert gone.wait(10)
