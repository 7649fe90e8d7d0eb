"""Work is done once, by a committer or not at all, and there are never more of them than so many."""

from __future__ import annotations

import threading

import pytest

from dicomd.net import thread_pool
from dicomd.net.committers import Committers
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "_STAYS", 0.05)


def committers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "committer"]


def test_there_are_so_many_at_most_and_they_are_used_again() -> None:
    pool, may_end, done = Committers(3), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        may_end.wait(10)
        done.release()

    assert [pool.assign(work) for _ in range(5)] == [True, True, True, False, False]
    assert len(committers()) == 3
    may_end.set()
    for _ in range(3):
        assert done.acquire(timeout=10)
    wait_until(lambda: pool.assign(work))
    assert done.acquire(timeout=10)
    wait_until(committers, equals=[])


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_without_a_thread_it_says_so_and_the_place_stays_free(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pool, done = Committers(1), threading.Semaphore(0)

    def refuse(_thread: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert [pool.assign(done.release) for _ in range(3)] == [False, False, False]
    assert pool.assign(done.release)
    assert done.acquire(timeout=10)
    wait_until(committers, equals=[])
    assert not done.acquire(blocking=False)


def test_work_is_done_once_even_if_starting_its_thread_fails_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out when the thread is already running."""
    pool, done = Committers(1), threading.Semaphore(0)
    start = threading.Thread.start

    def fail_late(thread: threading.Thread) -> None:
        start(thread)
        assert done.acquire(timeout=10)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail_late)
        assert pool.assign(done.release)
    assert not done.acquire(blocking=False)
    wait_until(lambda: pool.assign(done.release))
    assert done.acquire(timeout=10)
    wait_until(committers, equals=[])


def test_an_error_takes_no_place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    pool = Committers(1)

    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(3):
        wait_until(lambda: pool.assign(fail))
    wait_until(committers, equals=[])
    assert capsys.readouterr().err == ""
