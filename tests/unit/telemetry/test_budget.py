"""The budgets of log lines: per host and for all strangers, and the reports of suppressed lines."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from dicomd.telemetry.budget import (
    ACCOUNTS,
    AHEAD,
    EVENTS,
    HOST_BYTES,
    NAMED,
    PEER_BYTES,
    WINDOW,
    LineBudget,
)
from dicomd.telemetry.logs import LATER, UNBOUNDED, bound_logger, configure_logging, get_logger, report_suppressed
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.render import PRESANITIZED

pytestmark = pytest.mark.usefixtures("metric_files")

REJECTED = "association rejected"


class Clock:
    """A monotonic clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def new_budget(clock: Clock) -> LineBudget:
    lock = threading.Lock()
    return LineBudget(lambda: lock, clock)


@pytest.fixture
def budget(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> LineBudget:
    monkeypatch.setattr(os, "urandom", bytes)  # the same hosts share an account in each run
    return new_budget(clock)


def ask(budget: LineBudget, host: str, size: int, peer: str = "unknown", event: str = REJECTED) -> bool:
    """Request the budget for one line, as the logger does."""
    if budget.is_spent(host, peer, event):
        budget.leave_out(host, event)
        return False
    return budget.spend(host, peer, size, event)


def written(budget: LineBudget, host: str, count: int, size: int = 1000, peer: str = "unknown") -> int:
    """How many of `count` lines are written."""
    return sum(ask(budget, host, size, peer) for _ in range(count))


def test_a_host_has_its_bytes_and_then_no_more_while_it_goes_on(budget: LineBudget, clock: Clock) -> None:
    assert 0.9 * HOST_BYTES <= 1000 * written(budget, "a", 2000) <= HOST_BYTES
    for _ in range(60):  # 200 lines per second are twice its budget
        clock.now += 1
        assert written(budget, "a", 200) == 0


def test_it_has_them_again_when_it_asks_for_less(budget: LineBudget, clock: Clock) -> None:
    written(budget, "a", 2000)
    for _ in range(WINDOW + 1):
        clock.now += 1
        written(budget, "a", 10)
    assert written(budget, "a", 10) == 10


def test_another_host_has_its_own(budget: LineBudget) -> None:
    written(budget, "a", 2000)
    assert written(budget, "b", 100) == 100


def test_all_strangers_together_have_theirs_and_peers_are_none(budget: LineBudget, clock: Clock) -> None:
    total = sum(written(budget, f"10.0.0.{host}", 900) for host in range(20))
    assert 0.9 * PEER_BYTES <= 1000 * total <= PEER_BYTES
    assert written(budget, "10.0.1.1", 1) == 0
    assert written(budget, "192.168.1.1", 500, peer="ct1") == 500
    clock.now += WINDOW + 1
    assert written(budget, "10.0.1.1", 1) == 1, "the new window did not renew the budget"


def test_so_have_all_that_say_they_are_the_same_peer(budget: LineBudget) -> None:
    total = sum(written(budget, f"10.0.0.{host}", 900, peer="ct1") for host in range(20))
    assert 0.9 * PEER_BYTES <= 1000 * total <= PEER_BYTES
    assert written(budget, "10.0.1.1", 100, peer="unknown") == 100


@pytest.mark.parametrize("hosts", [1, 20])
def test_instances_that_come_once_more_leave_room_for_what_fails(budget: LineBudget, clock: Clock, hosts: int) -> None:
    repeated = 0
    for _ in range(60):
        clock.now += 1
        for host in range(hosts):
            repeated += sum(ask(budget, f"h{host}", 1000, "ct1", "instance stored") for _ in range(300))
            assert ask(budget, f"h{host}", 2000, "ct1", "store failed")
    assert repeated > 2000, "too few of the repeated lines were written"


@given(st.data())
@settings(max_examples=30)
def test_no_ten_seconds_have_more_than_that(data: st.DataObject) -> None:
    clock = Clock()
    budget = new_budget(clock)
    lines: deque[tuple[float, str, int]] = deque()
    for _ in range(data.draw(st.integers(1, 60))):
        clock.now += data.draw(st.floats(0, 4))
        host, size = data.draw(st.sampled_from("abcdefgh")), data.draw(st.integers(200, 16384))
        for _ in range(data.draw(st.sampled_from([1, 30, 300]))):
            if ask(budget, host, size):
                lines.append((clock.now, host, size))
        while lines and lines[0][0] < clock.now - WINDOW:
            lines.popleft()
        assert sum(size for _, _, size in lines) <= PEER_BYTES
        for each in "abcdefgh":
            assert sum(size for _, host, size in lines if host == each) <= HOST_BYTES


def test_every_line_is_written_or_told_of(budget: LineBudget, clock: Clock) -> None:
    found, told = 0, 0
    for host in range(50):
        found += written(budget, f"h{host}", 300)
        budget.leave_out(f"h{host}", "something else")
        clock.now += 0.3
        told += sum(sum(left_out.events.values()) for left_out in budget.take_left_out())
    clock.now += 1
    told += sum(sum(left_out.events.values()) for left_out in budget.take_left_out())
    assert found + told == 50 * 301
    assert budget.take_left_out(at_once=True) == []


def test_a_host_is_told_of_once_a_second_by_its_events(budget: LineBudget, clock: Clock) -> None:
    for event in (REJECTED, REJECTED, "connection refused", "new words"):
        budget.leave_out("a", event)
    clock.now += 1
    assert budget.take_left_out() == [("a", 1, {REJECTED: 2, "connection refused": 1, "other": 1})]
    budget.leave_out("a", REJECTED)
    assert budget.take_left_out() == []
    assert budget.take_left_out(at_once=True) == [("a", 1, {REJECTED: 1})]
    budget.leave_out("a", REJECTED)
    clock.now += 1
    assert budget.take_left_out() == [("a", 1, {REJECTED: 1})]


def test_many_hosts_are_told_of_in_few_lines(budget: LineBudget) -> None:
    for host in range(200):
        for _ in range(1 + (host < NAMED)):
            budget.leave_out(f"h{host}", REJECTED)
    *named, rest = budget.take_left_out(at_once=True)
    assert {left_out.host for left_out in named} == {f"h{host}" for host in range(NAMED)}
    assert rest == ("", 200 - NAMED, {REJECTED: 200 - NAMED})


def test_a_crowd_of_addresses_shares_one_account_and_washes_none_out(budget: LineBudget, clock: Clock) -> None:
    written(budget, "a", 2000, peer="")
    crowd = sum(ask(budget, f"h{host}", 1000, peer="") for host in range(10 * ACCOUNTS))
    assert ACCOUNTS <= crowd <= ACCOUNTS + HOST_BYTES // 1000
    assert budget.is_spent("another", "", REJECTED), "the spent budget was not known before making the line"
    assert written(budget, "a", 100, peer="") == 0
    clock.now += WINDOW + 1
    budget.take_left_out(at_once=True)
    assert ask(budget, "new", 1000), "the accounts of hosts that have left were not freed"


def test_a_crowd_of_strangers_takes_no_peer_its_account(budget: LineBudget) -> None:
    for host in range(10 * ACCOUNTS):
        ask(budget, f"h{host}", 400)
    assert not ask(budget, "another", 400)
    for peer in range(2):  # more peers might share a set of accounts
        assert written(budget, f"192.168.1.{peer}", 20, peer=f"ct{peer}") == 20


def test_processes_share_it(clock: Clock) -> None:
    """Several processes at once, each with a lock of its own: the daemon's shared lock prevents the races lost here."""
    budget = new_budget(clock)
    told, telling = os.pipe()
    for _ in range(4):
        child = os.fork()
        if not child:
            written(budget, "a", 500)
            for left_out in budget.take_left_out(at_once=True):
                os.write(telling, b"%s %d\n" % (left_out.host.encode(), sum(left_out.events.values())))
            os._exit(0)
        os.waitpid(child, 0)
    assert written(budget, "a", 1) == 0
    (left_out,) = budget.take_left_out(at_once=True)
    assert left_out.host == "a"
    os.close(telling)
    with os.fdopen(told) as stream:
        by_children = [line.split() for line in stream]
    assert {host for host, _ in by_children} == {"a"}
    total = sum(int(count) for _, count in by_children) + sum(left_out.events.values())
    assert 0 <= total - (2001 - 960) <= 1, "what was paid for was too little for another line"


def test_a_fork_takes_nothing_that_its_parent_has_paid_for(budget: LineBudget) -> None:
    written(budget, "a", 2)  # with the second one, more is paid for
    child = os.fork()
    if not child:
        os._exit(written(budget, "a", 2000) > HOST_BYTES // 1000 - 2 - AHEAD // 1000)
    assert os.waitpid(child, 0)[1] == 0


def test_most_lines_of_a_busy_host_need_no_other_process_excluded(clock: Clock) -> None:
    """Each time costs two system calls, in which other threads may take their turn."""
    locked: list[float] = []

    def lock() -> threading.Lock:
        locked.append(clock.now)
        return threading.Lock()

    budget = LineBudget(lock, clock)
    assert written(budget, "a", 200, size=500) == 200
    assert len(locked) <= 2 + 200 * 500 // AHEAD + 1
    written(budget, "a", 3000, size=500)
    left_out_from = len(locked)
    assert written(budget, "a", 3000, size=500) == 0
    assert len(locked) == left_out_from
    clock.now += 1
    left_out = sum(budget.take_left_out()[0].events.values())
    assert 0 <= left_out - (6200 - 0.96 * HOST_BYTES // 500) <= 1


def test_a_process_that_reports_nothing_has_another_one_report_it(clock: Clock) -> None:
    budget = new_budget(clock)
    for lines, at_once in ((3, False), (2, True)):
        child = os.fork()
        if not child:
            for _ in range(lines):
                budget.leave_out("a", REJECTED)
            clock.now += not at_once
            budget.settle(at_once=at_once)
            os._exit(0)
        os.waitpid(child, 0)
        assert budget.take_left_out(at_once=True) == [("a", 1, {REJECTED: lines})]


def test_what_is_paid_for_in_one_second_is_not_used_in_the_next(budget: LineBudget, clock: Clock) -> None:
    for _ in range(200):
        written(budget, "a", 3)
        clock.now += 1
    total = written(budget, "a", 2000)
    assert 0.6 * HOST_BYTES <= 1000 * total <= HOST_BYTES - WINDOW * 3 * 1000


def test_threads_may_use_it(budget: LineBudget) -> None:
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(written(budget, "a", 500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1000 * sum(counts) <= HOST_BYTES
    assert sum(counts) + sum(sum(each.events.values()) for each in budget.take_left_out(at_once=True)) == 4000


def test_a_long_or_odd_name_is_no_trouble(budget: LineBudget) -> None:
    budget.leave_out("é" * 100 + "\udcff", REJECTED)
    assert budget.take_left_out(at_once=True)[0].host.startswith("é" * 31)


def test_the_events_are_what_is_logged() -> None:
    """An event whose text was changed would be counted as "other"."""
    package = Path(__file__).parents[3] / "dicomd"
    source = "".join(path.read_text() for path in (package / "net").glob("*.py"))
    messages = {message.value for message in Message}
    assert [event for event in EVENTS[:-1] if event not in messages and f'"{event}"' not in source] == []


# -- through the logger ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest, tmp_path: Path, budget: LineBudget) -> Callable[[], list[str]]:
    metrics = Metrics(CollectorRegistry(), version="1")
    with (tmp_path / "log").open("w") as stream:
        configure_logging(request.param, "info", stream, metrics=metrics, budget=budget)
    return lambda: (tmp_path / "log").read_text().splitlines()


def test_lines_of_a_host_are_bounded_whoever_logs_them(log: Callable[[], list[str]]) -> None:
    bound = bound_logger({"dicom_peer_address": "10.0.0.1", "dicom_peer": "unknown"})
    for _ in range(4000):
        bound.warning(Message.ASSOCIATION_REJECTED, advice="x" * 400)
        bound.info(Message.ASSOCIATION_ENDED, error="x" * 400)
        get_logger().warning("connection refused", dicom_peer_address="10.0.0.1", error="x" * 400)
    lines = log()
    assert 0.9 * HOST_BYTES < sum(len(line) + 1 for line in lines) <= HOST_BYTES
    get_logger().warning("connection refused", dicom_peer_address="10.0.0.2")
    get_logger().error(Message.SPACE_LOW)
    assert len(log()) == len(lines) + 2


def test_what_would_be_costly_is_not_done_for_a_line_that_is_left_out(log: Callable[[], list[str]]) -> None:
    asked: list[int] = []

    def later() -> dict[str, Any]:
        asked.append(1)
        return {"contexts": ["x" * 400] * 4}

    bound = bound_logger({"dicom_peer_address": "10.0.0.1", "dicom_peer": "unknown"})
    for _ in range(4000):
        bound.warning(Message.ASSOCIATION_REJECTED, **{LATER: later})
    assert len(log()) <= len(asked) <= len(log()) + 1


def test_stored_instances_are_always_told(log: Callable[[], list[str]]) -> None:
    bound = bound_logger({"dicom_peer_address": "10.0.0.1", "dicom_peer": "unknown"})
    for number in range(5000):
        bound.info(
            Message.INSTANCE_STORED, **{PRESANITIZED: {"dicom_bytes": number, "detail": "x" * 400}, UNBOUNDED: True}
        )
    assert len(log()) == 5000
    bound.warning(Message.STORE_FAILED)
    assert len(log()) == 5001, "lines about stored instances left no room for failures"


def test_what_is_left_out_is_told_and_counted(tmp_path: Path, budget: LineBudget, clock: Clock) -> None:
    registry = CollectorRegistry()
    with (tmp_path / "log").open("w") as stream:
        configure_logging("json", "info", stream, metrics=Metrics(registry, version="1"), budget=budget)
    for _ in range(2000):
        get_logger().warning("connection refused", dicom_peer_address="2001:db8::1", error="x" * 500)
        get_logger().error(Message.INTERNAL_ERROR, module="monitoring", detail="x" * 500)
    clock.now += 1
    report_suppressed(budget)
    report_suppressed(budget, at_once=True)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "log lines suppressed"]
    assert {line.get("dicom_peer_address") for line in told} == {"2001:db8::/64", None}
    assert {event for line in told for event in line["suppressed"]} == {"connection refused", "internal error"}
    left_out = sum(line["count"] for line in told)
    assert left_out + len(lines) - len(told) == 4000
    assert registry.get_sample_value("dicomd_log_records_suppressed_total") == left_out
