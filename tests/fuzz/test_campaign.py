"""Runs the coverage-guided fuzzer on every target: briefly with each change, and for long in the soak tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Result
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

RecordProperty = Callable[[str, object], None]
SHORT = 16
"""Seconds per target."""


@pytest.fixture(autouse=True)
def _atheris() -> None:
    if not campaign.PYTHON.exists():
        pytest.skip("atheris is not installed: scripts/fuzz makes its environment (x86_64 only)")


def assert_nothing_broke(results: list[Result], record_property: RecordProperty) -> None:
    broken = [result for result in results if result.failed]
    assert not broken, "\n".join(
        f"{result.target} breaks at {result.crash.read_bytes()!r}" if result.crash else result.output[-4000:]
        for result in broken
    )
    for result in results:
        record_property(result.target, f"{result.executions} inputs, peak {result.peak_mib} MiB")
        assert result.executions > len(seeds(result.target)), f"{result.target} did not run"


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(600)
def test_no_target_breaks_in_a_short_run(tmp_path: Path, record_property: RecordProperty) -> None:
    """With a fixed seed and corpus, so that an idle machine tries the same inputs each time."""
    assert_nothing_broke(campaign.run(TARGETS, tmp_path, seconds=SHORT, jobs=2), record_property)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_target_breaks_in_a_long_run(tmp_path: Path, record_property: RecordProperty) -> None:
    minutes = int(os.environ.get("DICOMD_SOAK_MINUTES", "60"))
    seconds = max(10, minutes * 60 * 2 // (3 * len(TARGETS)))  # two at a time, in a third of the soak tests' time
    assert_nothing_broke(campaign.run(TARGETS, tmp_path, seconds=seconds, jobs=2, seed=0), record_property)
