"""The comparison of two versions: what each turn runs, and what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import beside, receivers, report, workloads
from bench.__main__ import describe, main
from bench.turns import Outcome, Step, rotated
from bench.versions import Version

OTHER = Version("1a2b3c4", Path("/nowhere"))


def test_each_variant_of_dicomd_meets_its_own_and_nothing_else_runs() -> None:
    plan = [
        Step(workloads.BY_NAME["blast-4K-c1"], receivers.RECEIVERS),
        Step(workloads.BY_NAME["workers-4K-c16"], (receivers.BY_NAME["dicomd-none-w2"],)),
    ]
    names = [[receiver.name for receiver in step.receivers] for step in beside.pairs(plan, OTHER)]
    assert names == [
        ["dicomd-none", "dicomd-none@1a2b3c4"],
        ["dicomd-fsync", "dicomd-fsync@1a2b3c4"],
        ["dicomd-none-w2", "dicomd-none-w2@1a2b3c4"],
    ]
    assert rotated(names[0], 1) == names[0][::-1]  # so that the two take turns in going first


def test_both_versions_are_described() -> None:
    described = describe(beside.pairs(beside.must_show(), OTHER))
    assert described["dicomd-none@1a2b3c4"] == {"title": "dicomd none @ 1a2b3c4", "version": "1a2b3c4"}
    assert list(described) == ["dicomd-none", "dicomd-none@1a2b3c4"]


@pytest.fixture
def results() -> report.Results:
    return report.Results(
        started="2026-01-02 03:04 UTC",
        machine={"cpu": "Some CPU, 2 cores"},
        receivers=describe(beside.pairs(beside.must_show(), OTHER)),
        turns=3,
        scale=1.0,
        outcomes={
            "blast-4K-c1": Outcome(
                {
                    "dicomd-none": [{"per_s": 110.0}, {"per_s": 300.0}, {"per_s": 200.0}],
                    "dicomd-none@1a2b3c4": [{"per_s": 100.0}, {"per_s": 250.0}, {"per_s": 400.0}],
                }
            ),
            "tls-512K-c4": Outcome({}, dict.fromkeys(("dicomd-none", "dicomd-none@1a2b3c4"), "no TLS listener")),
        },
    )


def test_the_page_shows_medians_their_ratio_and_that_of_the_turns(results: report.Results) -> None:
    page = beside.page(results)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    assert ["4 KiB, 1 Association, none", "objects/s", "200", "250", "0.800", "1.100", "2 of 3"] in rows
    assert "- tls-512K-c4: no TLS listener" in page
    assert beside.has_pairs(results)


def test_an_interrupted_run_says_so_and_compares_whole_turns(results: report.Results) -> None:
    results.trouble = "interrupted"
    results.outcomes["blast-4K-c1"].measured["dicomd-none@1a2b3c4"].pop()
    page = beside.page(results)
    assert "**Incomplete:** interrupted" in page
    assert "2 of 2" in page


def test_pairs_can_be_shown_again_from_the_json(results: report.Results, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(report.to_json(results))
    shown = CliRunner().invoke(main, ["--from", str(tmp_path / "results.json")])
    assert beside.page(results) in shown.output


@pytest.mark.parametrize("other", ["--cost", "--crowd", "--proposals", "--strict", "--write-docs"])
def test_what_compares_with_no_other_version_refuses_one(other: str) -> None:
    refused = CliRunner().invoke(main, ["--against", "HEAD", other])
    assert refused.exit_code == 2
    assert "--against" in refused.output
