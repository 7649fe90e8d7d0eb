"""The memory that workers share: counts that hold across processes, and survive the death of any of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dicomd.ipc.shared_state import ASSOCIATIONS_PER_WORKER, SLOTS, Board, Seat, SlotState
from dicomd.net.admission import Full
from tests.support.waiting import wait_until

MANY = 1_000_000


@pytest.fixture
def board() -> Board:
    return Board()


def seat(board: Board, slot: int, generation: int = 1) -> Seat:
    board.occupy(slot, generation)
    found = Seat(board, slot, generation)
    found.show_state(SlotState.READY)
    return found


def enter(seat: Seat, peer: str = "10.0.0.1", *, associations: int = MANY, per_peer: int = MANY) -> Full | None:
    return seat.enter(peer, associations=associations, per_peer=per_peer)


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Run something in a process of its own."""
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


def test_a_limit_holds_over_all_slots(board: Board) -> None:
    first, second = seat(board, 0), seat(board, 7)
    assert enter(first, associations=2) is None
    assert enter(second, associations=2) is None
    assert enter(first, associations=2) is Full.ASSOCIATIONS
    second.leave("10.0.0.1")
    assert enter(first, associations=2) is None
    assert (first.open_associations, second.open_associations, board.total_associations()) == (2, 0, 2)


def test_a_peer_s_limit_holds_over_all_slots(board: Board) -> None:
    first, second = seat(board, 0), seat(board, 1)
    assert enter(first, "a", per_peer=2) is None
    assert enter(second, "a", per_peer=2) is None
    assert enter(first, "b", per_peer=2) is None
    assert enter(second, "a", per_peer=2) is Full.PEER
    first.leave("a")
    assert enter(second, "a", per_peer=2) is None
    assert enter(first, "a", per_peer=2) is Full.PEER


def test_associations_leave_in_any_order(board: Board) -> None:
    only = seat(board, 0)
    for peer in "abcabc":
        assert enter(only, peer) is None
    for peer in "bcacba":
        only.leave(peer)
    assert only.open_associations == 0
    with board.locked():
        assert board.associations_of_peer(0) == 0


def test_a_dead_worker_s_counts_go_with_it(board: Board) -> None:
    dead, living = seat(board, 0), seat(board, 1)
    assert enter(dead, associations=1) is None
    assert dead.connect(1)
    assert not living.connect(1)
    board.vacate(0)
    assert living.connect(1)
    assert enter(living, associations=1) is None
    assert board.state(0) is SlotState.FREE


def test_a_slot_has_an_end(board: Board) -> None:
    only = seat(board, SLOTS - 1)
    only._words[3] = ASSOCIATIONS_PER_WORKER
    assert enter(only) is Full.ASSOCIATIONS
    with pytest.raises(IndexError):
        board.occupy(SLOTS, 1)


def test_processes_that_race_stay_within_the_limit(board: Board, forked: Callable[[Callable[[], None]], int]) -> None:
    seats = [seat(board, slot) for slot in range(4)]

    def race(mine: Seat) -> None:
        threads = [threading.Thread(target=lambda: [enter(mine, associations=100) for _ in range(50)]) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mine.show_aborted(1)
        signal.pause()

    for mine in seats:
        forked(lambda mine=mine: race(mine))  # type: ignore[misc]
    wait_until(lambda: all(board.aborted(slot) for slot in range(4)))
    assert board.total_associations() == 100


def test_nobody_waits_for_the_lock_far_from_a_limit(board: Board) -> None:
    with board.locked():
        assert enter(seat(board, 0), associations=2) is None
        assert enter(seat(board, 1), associations=2) is None
    assert board.total_associations() == 2


def test_a_holder_of_the_lock_that_is_killed_gives_it_back(
    board: Board, forked: Callable[[Callable[[], None]], int]
) -> None:
    mine, other = seat(board, 0), seat(board, 1)

    def hold() -> None:
        with board.locked():
            other.show_aborted(1)
            signal.pause()

    pid = forked(hold)
    wait_until(lambda: board.aborted(1))
    entered = threading.Event()
    thread = threading.Thread(target=lambda: (enter(mine, associations=0), entered.set()))
    thread.start()
    assert not entered.wait(0.1)
    os.kill(pid, signal.SIGKILL)
    assert entered.wait(10)
    thread.join()


def test_readiness_needs_a_worker_a_store_and_the_operator_s_consent(board: Board) -> None:
    assert board.unready() == "no worker is ready"
    first, second = seat(board, 0), seat(board, 1)
    first.show_store("")
    second.show_store("the store takes nothing: Störung" * 20)
    assert board.unready().startswith("the store takes nothing: Störung")
    second.show_store("")
    assert board.unready() == ""
    board.maintenance = True
    assert board.unready() == "dicomd is in maintenance"
    assert first.maintenance
    board.stopping = True
    assert board.unready() == "dicomd stops"
    assert second.stopping


def test_the_busier_worker_of_a_generation_gives_way(board: Board) -> None:
    first, second, old = seat(board, 0, 2), seat(board, 1, 2), seat(board, 2, 1)
    assert not first.gives_way()
    first.connect(MANY)
    assert first.gives_way()
    assert not second.gives_way()
    second.connect(MANY)
    assert not first.gives_way()
    assert not old.gives_way()
    first.disconnect(admitted=False)
    second.show_state(SlotState.DRAINING)
    assert first.speaks_for_all


def test_an_association_that_has_left_keeps_nobody_busy(board: Board) -> None:
    first, _ = seat(board, 0), seat(board, 1)
    for _ in range(2):
        first.connect(MANY)
        enter(first)
        assert first.gives_way()
        first.leave("10.0.0.1")
        assert not first.gives_way()
        first.disconnect(admitted=True)
        assert not first.gives_way()
    first.connect(MANY)
    assert first.gives_way()
    board.occupy(0, 1)
    first.show_state(SlotState.READY)
    assert not first.gives_way()


def test_a_call_is_taken_once(board: Board) -> None:
    first, second = seat(board, 0), seat(board, 1)
    assert not second.take_call()
    first.call()
    first.call()
    assert [second.take_call(), first.take_call(), second.take_call()] == [True, True, False]


def test_a_supervisor_that_is_silent_is_not_taken_for_alive(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.beat()
    assert board.supervised
    later = time.monotonic_ns() + 11 * 10**9
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    assert not board.supervised
