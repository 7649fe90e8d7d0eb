"""The report: JSON, tables, and the marked block of a document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.errors import BenchError
from bench.turns import Outcome


@pytest.fixture
def results() -> report.Results:
    return report.Results(
        started="2026-01-02 03:04 UTC",
        machine={"cpu": "Some CPU, 2 cores", "kernel": "6.1"},
        receivers={
            "dicomd-none": {"title": "dicomd none", "version": "0.1"},
            "dicomd-fsync": {"title": "dicomd fsync", "version": "0.1"},
            "dcmtk": {"title": "DCMTK storescp", "version": "3.6.7"},
            "pynetdicom": {"title": "pynetdicom storescp", "version": "3.0.4"},
        },
        turns=3,
        scale=1.0,
        outcomes={
            "blast-512K-c1": Outcome(
                {
                    "dicomd-none": [{"per_s": 1400.0}, {"per_s": 1600.0}, {"per_s": 1500.0}],
                    "dcmtk": [{"per_s": 1000.0}, {"per_s": 900.0}, {"per_s": 1100.0}],
                },
            ),
            "idle-200": Outcome(
                {"dicomd-none": [{"cpu_percent": 0.25, "memory_mb": 12.34}]},
                {"pynetdicom": "accepts at most 10 Associations"},
            ),
            "tls-512K-c1": Outcome(
                {}, dict.fromkeys(("dicomd-none", "dicomd-fsync", "dcmtk", "pynetdicom"), "no TLS listener")
            ),
        },
    )


def test_results_survive_json(results: report.Results) -> None:
    assert report.from_json(report.to_json(results)) == results


def test_json_holds_every_turn_and_the_medians_and_ratios(results: report.Results) -> None:
    document = json.loads(report.to_json(results))
    assert [turn["per_s"] for turn in document["outcomes"]["blast-512K-c1"]["measured"]["dcmtk"]] == [1000, 900, 1100]
    assert document["medians"]["blast-512K-c1 per_s"] == {"dicomd-none": 1500, "dcmtk": 1000}
    assert document["ratios"]["blast-512K-c1 per_s dicomd-none/dcmtk"] == 1.5
    assert not [key for key in document["ratios"] if key.startswith("idle-200")]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 0}'])
def test_anything_else_than_results_is_refused(text: str) -> None:
    with pytest.raises(BenchError):
        report.from_json(text)


def test_a_table_is_aligned_and_its_numbers_are_to_the_right() -> None:
    assert report.table(["work", "n"], [["a", "1,000"], ["long one", "7"]]).splitlines() == [
        "| work     |     n |",
        "|:---------|------:|",
        "| a        | 1,000 |",
        "| long one |     7 |",
    ]


def test_the_median_table_shows_medians_units_and_gaps(results: report.Results) -> None:
    lines = report.median_table(results).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        *("work", "unit", "dicomd none", "dicomd fsync", "DCMTK storescp", "pynetdicom storescp"),
    ]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        *("512 KiB, 1 Association", "objects/s", "1,500", "-", "1,000", "-"),
    ]
    assert len(lines) == 5  # header, separator, one rate, CPU and memory; nothing that was not run


def test_the_ratio_table_leaves_out_what_nobody_was_compared_in(results: report.Results) -> None:
    lines = report.ratio_table(results).splitlines()
    assert len(lines) == 3
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "512 KiB, 1 Association",
        "1.50",
        "-",
        "-",
        "-",
    ]


def test_reasons_name_the_receivers_unless_it_was_all(results: report.Results) -> None:
    assert report.not_run(results) == [
        "- idle-200 into pynetdicom storescp: accepts at most 10 Associations",
        "- tls-512K-c1: no TLS listener",
    ]


def test_the_page_names_dicomd_once_and_says_what_is_incomplete(results: report.Results) -> None:
    results.trouble = "DCMTK storescp stored 3 instances of the 4 that were sent"
    page = report.page(results)
    assert "dicomd 0.1, DCMTK storescp 3.6.7, pynetdicom storescp 3.0.4. Medians of 3 turns." in page
    assert "**Incomplete:** DCMTK storescp stored 3" in page


def test_ratios_have_fewer_digits_the_larger_they_are() -> None:
    assert [report.times(value) for value in (None, 0.834, 1.5, 33.33, 147.6)] == ["-", "0.83", "1.50", "33.3", "148"]


def test_the_block_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nThe end.\n")
    report.write_block(document, "| new |")
    report.write_block(document, "| newer |")
    assert document.read_text() == f"# Title\n\n{report.BEGIN}\n\n| newer |\n\n{report.END}\n\nThe end.\n"


@pytest.mark.parametrize(
    "text",
    ["", f"{report.BEGIN}\n", f"{report.END}\n", f"{report.END}\n{report.BEGIN}\n", 2 * f"{report.BEGIN}{report.END}"],
)
def test_a_document_without_its_two_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    document = tmp_path / "performance.md"
    document.write_text(text)
    with pytest.raises(BenchError, match="marks"):
        report.write_block(document, "new")
    assert document.read_text() == text
