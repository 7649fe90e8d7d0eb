"""What is outstanding keeps what is like it waiting, and no wait of an Association's thread is without an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from dicomd.net.outstanding import OutstandingOperations
from tests.support.waiting import wait_until


class Nothing:
    """No responses for the Association's thread to send."""

    pending = False

    def send_pending(self) -> None:
        raise AssertionError("there is none")


class Left:
    """Responses that are left one by one."""

    def __init__(self) -> None:
        self.count = 0
        self.sent = threading.Semaphore(0)

    @property
    def pending(self) -> bool:
        return self.count > 0

    def send_pending(self) -> None:
        self.count = 0
        self.sent.release()


NOTHING = Nothing()


def started(work: Callable[[], None]) -> tuple[threading.Thread, threading.Event]:
    """A thread that does this work, and an event that is set once it is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


@pytest.mark.parametrize(
    ("message_id", "uid"), [(1, "1.3"), (3, "1.1"), (3, "1.3")], ids=["Message ID", "instance", "full"]
)
def test_an_operation_waits_until_nothing_is_in_its_way(message_id: int, uid: str) -> None:
    outstanding = OutstandingOperations(2 if (message_id, uid) == (3, "1.3") else 8)
    outstanding.begin(1, "1.1", NOTHING)
    outstanding.begin(2, "1.2", NOTHING)
    thread, done = started(lambda: outstanding.begin(message_id, uid, NOTHING))
    assert not done.wait(0.05)
    outstanding.end(1, "1.1")
    assert done.wait(10)
    thread.join()


def test_what_is_answered_at_once_waits_for_its_message_id_only() -> None:
    outstanding = OutstandingOperations(1)
    outstanding.begin(1, "1.1", NOTHING)
    outstanding.await_message_id(2, NOTHING)
    thread, done = started(lambda: outstanding.await_message_id(1, NOTHING))
    assert not done.wait(0.05)
    outstanding.end(1, "1.1")
    assert done.wait(10)
    thread.join()


def test_an_interruption_ends_the_wait_and_lets_none_begin() -> None:
    outstanding = OutstandingOperations(1)
    outstanding.begin(1, "1.1", NOTHING)
    raised: list[Exception] = []

    def begin() -> None:
        try:
            outstanding.begin(2, "1.2", NOTHING)
        except LookupError as error:
            raised.append(error)

    thread, done = started(begin)
    assert not done.wait(0.05)
    first = LookupError("first")
    outstanding.interrupt(first)
    outstanding.interrupt(LookupError("second"))
    assert done.wait(10)
    thread.join()
    assert raised == [first]
    outstanding.end(1, "1.1")
    for refused in (lambda: outstanding.begin(3, "1.3", NOTHING), lambda: outstanding.await_message_id(3, NOTHING)):
        with pytest.raises(LookupError, match="first"):
            refused()
    with pytest.raises(LookupError, match="first"):
        outstanding.check()
    outstanding.wait_for_all(NOTHING)  # what was refused isn't counted


def test_responses_are_sent_while_it_waits() -> None:
    outstanding, left = OutstandingOperations(1), Left()
    outstanding.begin(1, "1.1", left)
    thread, done = started(lambda: outstanding.wait_for_all(left))
    for _ in range(3):
        left.count = 1
        outstanding.notify()
        assert left.sent.acquire(timeout=10)
    assert not done.is_set()
    outstanding.end(1, "1.1")
    assert done.wait(10)
    thread.join()


def test_it_knows_since_when_it_is_quiet() -> None:
    outstanding = OutstandingOperations(2)
    began = time.monotonic()
    outstanding.begin(1, "1.1", NOTHING)
    outstanding.begin(2, "1.2", NOTHING)
    assert outstanding.quiet_since() is None
    outstanding.end(2, "1.2")
    assert outstanding.quiet_since() is None
    outstanding.end(1, "1.1")
    since = outstanding.quiet_since()
    assert since is not None
    assert began <= since <= time.monotonic()


def test_many_threads_lose_none() -> None:
    outstanding = OutstandingOperations(5)
    most = 0
    running: list[int] = []
    threads = []

    def end(number: int, uid: str) -> None:
        running.append(number)
        nonlocal most
        most = max(most, len(running))
        running.remove(number)
        outstanding.end(number, uid)

    for number in range(500):
        uid = f"1.{number % 3}"
        outstanding.begin(number % 7, uid, NOTHING)
        threads.append(threading.Thread(target=end, args=(number % 7, uid)))
        threads[-1].start()
    outstanding.wait_for_all(NOTHING)
    for thread in threads:
        thread.join()
    assert most <= 3  # no more than there are UIDs
    wait_until(outstanding.quiet_since)
