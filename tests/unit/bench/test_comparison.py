"""Medians, ratios, attainments and the order of turns."""

from __future__ import annotations

import pytest

from bench import comparison, receivers, targets, turns, workloads
from bench.turns import Outcome
from bench.workloads import RATE, SECONDS


def test_a_summary_is_of_the_turns_that_have_the_figure() -> None:
    found = comparison.summary([{"per_s": 3.0}, {"per_s": 1.0}, {"other": 9.0}, {"per_s": 2.0}], "per_s")
    assert found == comparison.Summary(median=2.0, least=1.0, greatest=3.0, turns=3)
    assert comparison.summary([{"other": 1.0}], "per_s") is None


def test_the_median_of_an_even_number_of_turns_is_the_mean_of_the_middle_two() -> None:
    outcomes = {"work": Outcome({"dcmtk": [{"per_s": 1.0}, {"per_s": 4.0}, {"per_s": 2.0}, {"per_s": 100.0}]})}
    assert comparison.median(outcomes, "work", "dcmtk", "per_s") == 3.0
    assert comparison.median(outcomes, "work", "orthanc", "per_s") is None
    assert comparison.median(outcomes, "other", "dcmtk", "per_s") is None


def test_a_ratio_above_one_is_better_whichever_way_the_figure_runs() -> None:
    assert comparison.ratio(RATE, 200.0, 100.0) == 2.0
    assert comparison.ratio(SECONDS, 0.5, 1.0) == 2.0


@pytest.mark.parametrize(("first", "second"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_there_is_no_ratio_without_both_or_to_nothing(first: float | None, second: float | None) -> None:
    assert comparison.ratio(RATE, first, second) is None


def test_every_receiver_begins_a_turn_once() -> None:
    names = ["a", "b", "c"]
    assert [turns.rotated(names, turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert all(sorted(turns.rotated(names, turn)) == names for turn in range(4))
    assert turns.rotated([], 3) == []


def outcomes(**medians: dict[str, dict[str, float]]) -> dict[str, Outcome]:
    return {
        name.replace("_", "-"): Outcome({receiver.replace("_", "-"): [figures] for receiver, figures in found.items()})
        for name, found in medians.items()
    }


def attainment(
    found: dict[str, Outcome], workload: str, figure: str, receiver: str, against: str = ""
) -> targets.Attainment:
    return next(
        attainment
        for attainment in targets.judge(found)
        if (attainment.target.workload, attainment.target.figure) == (workload, figure)
        and (attainment.target.receiver, attainment.target.against) == (receiver, against)
    )


def test_a_ratio_at_its_bound_is_met_and_below_it_is_not() -> None:
    at = outcomes(associations={"dicomd_none": {"per_s": 400.0}, "dcmtk": {"per_s": 100.0}})
    below = outcomes(associations={"dicomd_none": {"per_s": 399.0}, "dcmtk": {"per_s": 100.0}})
    assert attainment(at, "associations", "per_s", "dicomd-none", "dcmtk").word == "met"
    assert attainment(below, "associations", "per_s", "dicomd-none", "dcmtk").word == "not met"


def test_a_time_may_be_a_fifth_longer_than_the_peers() -> None:
    at = outcomes(one_1GB={"dicomd_none": {"seconds": 1.199}, "dcmtk": {"seconds": 1.0}})
    above = outcomes(one_1GB={"dicomd_none": {"seconds": 1.21}, "dcmtk": {"seconds": 1.0}})
    assert attainment(at, "one-1GB", "seconds", "dicomd-none", "dcmtk").word == "met"
    assert attainment(above, "one-1GB", "seconds", "dicomd-none", "dcmtk").word == "not met"


def test_a_figure_without_a_peer_has_an_upper_bound() -> None:
    at = outcomes(idle_200={"dicomd_fsync": {"cpu_percent": 1.0, "memory_mb": 101.0}})
    assert attainment(at, "idle-200", "cpu_percent", "dicomd-fsync").word == "met"
    assert attainment(at, "idle-200", "memory_mb", "dicomd-fsync").word == "not met"


def test_a_target_that_was_not_run_is_not_met_by_silence() -> None:
    assert {attainment.word for attainment in targets.judge({})} == {"not run"}


def test_every_target_names_what_exists() -> None:
    for target in targets.TARGETS:
        assert target.figure in {figure.key for figure in workloads.BY_NAME[target.workload].figures}
        assert target.receiver in receivers.BY_NAME
        assert not target.against or target.against in receivers.BY_NAME


def test_the_plan_of_the_targets_runs_all_they_compare_and_no_more() -> None:
    planned = {step.workload.name: {receiver.name for receiver in step.receivers} for step in targets.plan()}
    for target in targets.TARGETS:
        assert target.receiver in planned[target.workload]
        assert not target.against or target.against in planned[target.against_workload or target.workload]
    assert planned["one-1GB"] == {"dicomd-none", "dicomd-fsync", "dcmtk"}
    assert planned["workers-4K-c16"] == {"dicomd-none-w1", "dicomd-none-w2"}
    assert "blast-4K-c8" not in planned
