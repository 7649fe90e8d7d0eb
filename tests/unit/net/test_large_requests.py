"""Large A-ASSOCIATE-RQs: how many are read at once, in which order, and how long the others wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dicomd.net import large_requests
from dicomd.net.deadlines import TimedOutError
from dicomd.net.large_requests import PERMITS_PER_HOST, LargeRequests, Permit
from tests.support.waiting import wait_until
from tests.unit.net.observed_locks import Waits

SOON, LATER = 0.01, 60.0
"""Seconds: for a wait that should time out, and for one that should not."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def until(seconds: float) -> float:
    return time.monotonic() + seconds


def assert_all_permits_are_free(requests: LargeRequests, hosts: str, per_host: int) -> None:
    """`hosts`: as many hosts, each a letter, as take all permits together."""
    for host in hosts * per_host:
        requests.acquire(host, until(SOON))
    with pytest.raises(TimedOutError):
        requests.acquire("one more", until(SOON))


def test_a_host_has_its_permits_and_leaves_the_others_theirs() -> None:
    requests = LargeRequests(permits=3, per_host=2)
    permits = [requests.acquire(host, until(SOON)) for host in ("A", "A", "B")]
    for host in ("A", "B", "C"):
        with pytest.raises(TimedOutError) as caught:
            requests.acquire(host, until(SOON))
        assert caught.value.limit == "large_requests"
    for permit in permits:  # they don't go to those who have ceased to wait
        requests.release(permit)
    for host in ("C", "C", "A"):
        requests.acquire(host, until(SOON))


def test_a_permit_goes_to_the_first_who_may_have_it(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Waits(monkeypatch, large_requests)
    requests = LargeRequests(permits=2, per_host=1)
    permits = [requests.acquire(host, until(SOON)) for host in ("A", "B")]
    order: list[str] = []
    waiting: list[Future[None]] = []

    def wait(name: str, host: str) -> None:
        permit = requests.acquire(host, until(LATER))
        order.append(name)
        requests.release(permit)

    for name, host in [("a", "A"), ("b1", "B"), ("b2", "B"), ("c", "C")]:
        waiting.append(threads.submit(wait, name, host))
        waits.next()
    requests.release(permits[1])  # "a" is first in the queue, but host A has used all of its permits
    wait_until(lambda: len(order), equals=3, what="those that don't depend on A have not been served")
    assert order == ["b1", "b2", "c"]
    requests.release(permits[0])
    for future in waiting:
        future.result(LATER)
    assert order[3:] == ["a"]
    assert_all_permits_are_free(requests, "AB", 1)


def test_only_one_is_judged_at_a_time(threads: ThreadPoolExecutor) -> None:
    requests = LargeRequests()
    judging, most = 0, 0

    def judge(host: str) -> None:
        nonlocal judging, most
        permit = requests.acquire(host, until(LATER))
        with requests.turn(until(LATER)):
            judging += 1
            most = max(most, judging)
            time.sleep(0)  # gives others the chance to enter, if they can
            judging -= 1
        requests.release(permit)

    for future in [threads.submit(judge, f"host {number % 5}") for number in range(100)]:
        future.result(LATER)
    assert most == 1
    assert_all_permits_are_free(requests, "ABCDEFGH", PERMITS_PER_HOST)


def test_after_an_expensive_one_the_next_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause depends on the CPU time that the connection used. The clock is set by the test, so nothing sleeps."""
    now, used, slept = 1000.0, 0.0, list[float]()
    clock = type("Clock", (), {"monotonic": lambda: now, "thread_time": lambda: used, "sleep": slept.append})
    monkeypatch.setattr(large_requests, "time", clock)
    requests = LargeRequests()
    permit = requests.acquire("A", now + 10)
    used += 0.5
    requests.release(permit)
    permit = requests.acquire("B", now + 10)
    with requests.turn(now + 10):
        pass
    assert slept == [pytest.approx(3.5)]
    used += 2.0
    requests.release(permit)
    with pytest.raises(TimedOutError), requests.turn(now + 10):
        pytest.fail("it would get its turn only after ARTIM has expired")


def test_who_waits_for_a_turn_in_vain_leaves_no_trace() -> None:
    requests = LargeRequests()
    with requests.turn(until(SOON)), pytest.raises(TimedOutError), requests.turn(until(SOON)):
        pytest.fail("two are read at once")
    with requests.turn(until(SOON)):
        pass


def test_a_permit_that_comes_as_the_time_ends_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permit may become free between the end of the wait and the check whether it has timed out."""
    requests = LargeRequests(permits=1)
    permit = requests.acquire("A", until(SOON))
    acquire = threading.Lock().acquire

    class Late:
        """A lock whose wait times out just as the permit is granted."""

        def acquire(self, timeout: float = -1) -> bool:
            if timeout >= 0:
                requests.release(permit)
                return False
            return acquire()

        def release(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(large_requests.threading, "Lock", Late)
        taken = requests.acquire("B", until(SOON))
    assert isinstance(taken, Permit)
    with pytest.raises(TimedOutError):  # "B" has it
        requests.acquire("A", until(SOON))
    requests.release(taken)  # and has it once
    requests.acquire("A", until(SOON))
