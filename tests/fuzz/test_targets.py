"""Runs every target with its seeds, with inputs that once broke it, and with seeded damage to both."""

from __future__ import annotations

import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.seeds import REGRESSIONS, seeds, streams
from tests.fuzz.targets import TARGETS

DAMAGED = 300
"""Inputs per target; the coverage-guided fuzzer has its own test."""


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_bears_its_seeds_and_damage_to_them(target: str) -> None:
    known = seeds(target)
    assert known, "the target has no seeds"
    for content in (b"", *known):
        TARGETS[target](content)
    for seed in range(DAMAGED):
        TARGETS[target](mutated(known, seed))


def test_each_regression_belongs_to_a_target() -> None:
    assert {folder.name for folder in REGRESSIONS.iterdir()} <= TARGETS.keys()


def test_the_same_seed_does_the_same_damage() -> None:
    recorded = list(streams().values())
    first = [mutated(recorded, seed) for seed in range(200)]
    assert first == [mutated(recorded, seed) for seed in range(200)]
    assert len(set(first)) > 190
