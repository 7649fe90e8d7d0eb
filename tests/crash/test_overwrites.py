"""The verdict on overwrites: which sendings excuse a missing Data Set, and which don't."""

from __future__ import annotations

import math

import pytest

from tests.support.overwrites import Sending, lost

A, B, C = b"a", b"b", b"c"
NEVER = math.inf


def sending(digest: bytes, began: float, ended: float = NEVER, *, uid: str = "1", acknowledged: bool = True) -> Sending:
    return Sending(uid, digest, began, ended, acknowledged and ended < NEVER)


def is_lost(sendings: list[Sending], present: dict[bytes, float], *, overwriting: bool = True) -> list[bytes]:
    found = {("1", digest): until for digest, until in present.items()}
    return sorted(digest for _, digest in lost(sendings, found, overwriting=overwriting))


def test_what_is_there_is_not_lost() -> None:
    assert is_lost([sending(A, 0, 1), sending(B, 2, 3)], {A: NEVER, B: NEVER}, overwriting=False) == []


def test_what_was_not_acknowledged_may_be_missing() -> None:
    assert is_lost([sending(A, 0), sending(B, 0, 1, acknowledged=False)], {}, overwriting=False) == []


@pytest.mark.parametrize(
    ("other", "excuse"),
    [
        (sending(B, 2, 3), True),  # sent afterwards
        (sending(B, 0.5, 3), True),  # sent at the same time, in either order
        (sending(B, -1, 0.5), True),  # begun before, but may have taken longer
        (sending(B, 0.2, 0.3), True),
        (sending(B, -1), True),  # without an answer: its end is unknown
        (sending(B, 2, 3, acknowledged=False), True),  # "a replace whose sync fails leaves the new one"
        (sending(B, -2, -1), False),  # ended before
        (sending(B, 2, 3, uid="2"), False),  # another instance
    ],
)
def test_an_overwrite_excuses_what_it_can_have_come_after(other: Sending, excuse: bool) -> None:
    present = {(other.uid, B): NEVER}
    assert (lost([sending(A, 0, 1), other], present, overwriting=True) == []) is excuse
    assert lost([sending(A, 0, 1), other], present, overwriting=False) == [("1", A)]


def test_what_is_nowhere_itself_excuses_nothing() -> None:
    assert is_lost([sending(A, 0, 1), sending(B, 2, 3)], {}) == [A, B]


def test_a_chain_of_overwrites_ends_with_one_that_is_there() -> None:
    chain = [sending(A, 0, 1), sending(B, 2, 3), sending(C, 4, 5)]
    assert is_lost(chain, {C: NEVER}) == []
    assert is_lost(chain, {B: NEVER}) == [C]
    assert is_lost(chain, {A: NEVER}) == [B, C]


def test_what_was_moved_away_before_overwrites_nothing_later() -> None:
    both = [sending(A, 4, 5), sending(B, 0, 9)]
    assert is_lost(both, {B: 6.0}) == []
    assert is_lost(both, {B: 3.0}) == [A]


def test_the_last_acknowledged_sending_of_a_data_set_counts() -> None:
    again = [sending(A, 0, 1), sending(B, 2, 3), sending(A, 4, 5)]
    assert is_lost(again, {A: NEVER}) == []
    assert is_lost(again, {B: NEVER}) == [A]
