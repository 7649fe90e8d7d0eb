"""Alerts caused by strangers are merged: bounded per host, and all of them counted."""

from __future__ import annotations

import random

import pytest

from dicomd.audit.alerts import MERGED_FOR, MOST_HOSTS, MOST_KINDS, MergedAlerts
from dicomd.audit.events import Node, SecurityAlert, now


def alert(address: str = "10.0.0.1", ae_title: str = "X", reason: str = "no") -> SecurityAlert:
    return SecurityAlert(now(), Node(ae_title, address), reason)


def test_the_first_is_told_at_once_and_its_repetitions_a_minute_later() -> None:
    merged = MergedAlerts()
    first = alert()
    assert merged.take(first, 100.0) == [first]
    second, *_, last = [alert() for _ in range(50)]
    assert merged.take(second, 101.0) == []
    for _ in range(48):
        assert merged.take(alert(), 120.0) == []
    assert merged.take(last, 150.0) == []
    assert merged.next_due() == 100.0 + MERGED_FOR
    assert merged.due(100.0 + MERGED_FOR - 0.1) == []
    (told,) = merged.due(100.0 + MERGED_FOR)
    assert (told.times, told.since, told.when, told.node) == (50, second.when, last.when, first.node)
    assert merged.next_due() is None
    assert merged.take(first, 200.0) == [first]


def test_one_without_repetition_is_told_once() -> None:
    merged = MergedAlerts()
    merged.take(alert(), 0.0)
    assert merged.due(MERGED_FOR) == []
    assert merged.rest() == []


def test_ae_titles_and_reasons_are_told_apart_up_to_a_bound() -> None:
    merged = MergedAlerts()
    told = [one for number in range(1000) for one in merged.take(alert(ae_title=f"A{number}"), 0.0)]
    assert [one.node.ae_title for one in told] == [f"A{number}" for number in range(MOST_KINDS)]
    (others,) = merged.rest()
    assert others.times == 1000 - MOST_KINDS
    assert others.node == Node("", "10.0.0.1")
    assert others.reason == "various, most recently: no"


def test_hosts_do_not_hide_each_other() -> None:
    merged = MergedAlerts()
    for _ in range(1000):
        merged.take(alert("10.0.0.1"), 0.0)
    other = alert("10.0.0.2")
    assert merged.take(other, 1.0) == [other]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_uncounted_and_the_state_is_bounded(seed: int) -> None:
    rng = random.Random(seed)
    merged, at, taken, told = MergedAlerts(), 0.0, 0, list[SecurityAlert]()
    for _ in range(5000):
        at += rng.choice((0.0, 0.01, 1.0))
        one = alert(f"10.{rng.randrange(8)}.0.{rng.randrange(250)}", f"A{rng.randrange(12)}", rng.choice("ab"))
        told += merged.take(one, at)
        taken += 1
        if rng.random() < 0.1:
            told += merged.due(at)
        assert len(merged._hosts) <= MOST_HOSTS  # noqa: SLF001 - memory is bounded at any time, not only what is told
    told += merged.rest()
    assert sum(one.times for one in told) == taken


def test_many_hosts_push_the_first_out_with_its_count() -> None:
    merged = MergedAlerts()
    for _ in range(5):
        merged.take(alert("10.0.0.1"), 0.0)
    told = [
        one for number in range(MOST_HOSTS) for one in merged.take(alert(f"10.1.{number // 256}.{number % 256}"), 1.0)
    ]
    assert len(told) == MOST_HOSTS + 1
    assert {one.times for one in told if one.node.address == "10.0.0.1"} == {4}
