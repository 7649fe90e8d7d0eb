"""The memory that workers share: counts are correct across processes and survive the death of any of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dicomd.ipc.shared_state import ASSOCIATIONS_PER_WORKER, SLOTS, SharedState, SlotState
from dicomd.ipc.worker_slot import WorkerSlot
from dicomd.net.admission_counter import LimitReached
from tests.support.waiting import wait_until
from tests.support.worker_slots import worker_slot

MANY = 1_000_000


@pytest.fixture
def shared_state() -> SharedState:
    return SharedState()


def enter(
    mine: WorkerSlot, peer: str = "10.0.0.1", *, associations: int = MANY, per_peer: int = MANY
) -> LimitReached | None:
    return mine.enter(peer, associations=associations, per_peer=per_peer)


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Run a function in a separate process."""
    pids = []

    def fork(run: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                run()
            finally:
                os._exit(0)
        pids.append(pid)
        return pid

    yield fork
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_limit_holds_over_all_slots(shared_state: SharedState) -> None:
    first, second = worker_slot(shared_state, 0), worker_slot(shared_state, 7)
    assert enter(first, associations=2) is None
    assert enter(second, associations=2) is None
    assert enter(first, associations=2) is LimitReached.ASSOCIATIONS
    second.leave("10.0.0.1")
    assert enter(first, associations=2) is None
    assert shared_state.total_associations() == 2


def test_a_peer_s_limit_holds_over_all_slots(shared_state: SharedState) -> None:
    first, second = worker_slot(shared_state, 0), worker_slot(shared_state, 1)
    assert enter(first, "a", per_peer=2) is None
    assert enter(second, "a", per_peer=2) is None
    assert enter(first, "b", per_peer=2) is None
    assert enter(second, "a", per_peer=2) is LimitReached.PEER
    first.leave("a")
    assert enter(second, "a", per_peer=2) is None
    assert enter(first, "a", per_peer=2) is LimitReached.PEER


def test_associations_leave_in_any_order(shared_state: SharedState) -> None:
    only = worker_slot(shared_state, 0)
    for peer in "abcabc":
        assert enter(only, peer) is None
    for peer in "bcacba":
        only.leave(peer)
    assert shared_state.total_associations() == 0
    with shared_state.locked():
        assert shared_state.count_associations(0) == (0, 0)


def test_a_dead_worker_s_counts_go_with_it(shared_state: SharedState) -> None:
    dead, living = worker_slot(shared_state, 0), worker_slot(shared_state, 1)
    assert enter(dead, associations=1) is None
    assert dead.connect(1)
    assert not living.connect(1)
    shared_state.vacate(0)
    assert living.connect(1)
    assert enter(living, associations=1) is None
    assert shared_state.fields(0).state == SlotState.FREE


def test_a_slot_has_an_end(shared_state: SharedState) -> None:
    only = worker_slot(shared_state, SLOTS - 1)
    only._fields.associations = ASSOCIATIONS_PER_WORKER
    assert enter(only) is LimitReached.ASSOCIATIONS
    with pytest.raises(IndexError):
        shared_state.occupy(SLOTS, 1)


def test_processes_that_race_stay_within_the_limit(
    shared_state: SharedState, forked: Callable[[Callable[[], None]], int]
) -> None:
    worker_slots = [worker_slot(shared_state, slot) for slot in range(4)]

    def race(mine: WorkerSlot) -> None:
        threads = [threading.Thread(target=lambda: [enter(mine, associations=100) for _ in range(50)]) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mine.show_aborted(1)
        signal.pause()

    for mine in worker_slots:
        forked(lambda mine=mine: race(mine))  # type: ignore[misc]
    wait_until(lambda: all(shared_state.aborted(slot) for slot in range(4)))
    assert shared_state.total_associations() == 100


def test_nobody_waits_for_the_lock_far_from_a_limit(shared_state: SharedState) -> None:
    with shared_state.locked():
        assert enter(worker_slot(shared_state, 0), associations=2) is None
        assert enter(worker_slot(shared_state, 1), associations=2) is None
    assert shared_state.total_associations() == 2


def test_a_holder_of_the_lock_that_is_killed_gives_it_back(
    shared_state: SharedState, forked: Callable[[Callable[[], None]], int]
) -> None:
    mine, other = worker_slot(shared_state, 0), worker_slot(shared_state, 1)

    def hold() -> None:
        with shared_state.locked():
            other.show_aborted(1)
            signal.pause()

    pid = forked(hold)
    wait_until(lambda: shared_state.aborted(1))
    entered = threading.Event()
    thread = threading.Thread(target=lambda: (enter(mine, associations=0), entered.set()))
    thread.start()
    assert not entered.wait(0.1)
    os.kill(pid, signal.SIGKILL)
    assert entered.wait(10)
    thread.join()


def test_readiness_needs_a_worker_a_store_and_the_operator_s_consent(shared_state: SharedState) -> None:
    assert shared_state.unready() == "no worker is ready"
    first, second = worker_slot(shared_state, 0), worker_slot(shared_state, 1)
    first.show_store("")
    second.show_store("the store is not accepting instances: Störung" * 20)
    assert shared_state.unready().startswith("the store is not accepting instances: Störung")
    second.show_store("")
    assert shared_state.unready() == ""
    shared_state.maintenance = True
    assert shared_state.unready() == "dicomd is in maintenance"
    assert first.maintenance
    shared_state.stopping = True
    assert shared_state.unready() == "dicomd stops"
    assert second.stopping


def test_the_busier_worker_of_a_generation_gives_way(shared_state: SharedState) -> None:
    first, second, old = (
        worker_slot(shared_state, 0, 2),
        worker_slot(shared_state, 1, 2),
        worker_slot(shared_state, 2, 1),
    )
    assert not first.should_yield()
    first.connect(MANY)
    assert first.should_yield()
    assert not second.should_yield()
    second.connect(MANY)
    assert not first.should_yield()
    assert not old.should_yield()
    first.disconnect(admitted=False)
    second.show_state(SlotState.DRAINING)
    assert first.speaks_for_all


def test_an_association_that_has_left_keeps_nobody_busy(shared_state: SharedState) -> None:
    first, _ = worker_slot(shared_state, 0), worker_slot(shared_state, 1)
    for _ in range(2):
        first.connect(MANY)
        enter(first)
        assert first.should_yield()
        first.leave("10.0.0.1")
        assert not first.should_yield()
        first.disconnect(admitted=True)
        assert not first.should_yield()
    first.connect(MANY)
    assert first.should_yield()
    shared_state.occupy(0, 1)
    first.show_state(SlotState.READY)
    assert not first.should_yield()


def test_a_call_is_taken_once(shared_state: SharedState) -> None:
    first, second = worker_slot(shared_state, 0), worker_slot(shared_state, 1)
    assert not second.take_wakeup()
    first.wake_sibling()
    first.wake_sibling()
    assert [second.take_wakeup(), first.take_wakeup(), second.take_wakeup()] == [True, True, False]


def test_a_supervisor_that_is_silent_is_not_taken_for_alive(
    shared_state: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_state.beat()
    assert shared_state.supervised
    later = time.monotonic_ns() + 11 * 10**9
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    assert not shared_state.supervised
