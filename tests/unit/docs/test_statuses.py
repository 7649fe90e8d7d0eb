"""The number of a status stands once in the source, and texts for people name only statuses that exist.

After a change of a number, the failures here list the texts that are written by hand.
"""

import re
from pathlib import Path

import pytest

from dicomd.statuses import Status
from tests.unit.docs.markdown import DOCUMENTS, ROOT, rows, section

PACKAGE = ROOT / "dicomd"
RUNBOOK = ROOT / "ops/runbook.md"
CATALOG = ROOT / "packaging/dicomd.catalog"
TEXTS = [*DOCUMENTS, RUNBOOK, CATALOG, ROOT / "ops/grafana/dashboard.py", ROOT / "etc/dicomd.toml"]
_NUMBER = re.compile(r"\b(?:0x([0-9A-F]{4})|([AC][0-9A-F]{2}[0-9]))\b")
"""A number with 0x, or one that begins as a failure's does: a number such as 0750 may be the mode of a file."""

SENT = {str(status) for status in Status if "*Not sent" not in status.meaning}


def named(text: str) -> set[str]:
    return {first or second for first, second in _NUMBER.findall(text)}


def test_a_number_stands_once_in_the_source() -> None:
    written = re.compile("|".join(f"{status}" for status in Status if status is not Status.SUCCESS), re.IGNORECASE)
    found = [
        (path.relative_to(PACKAGE), number)
        for path in sorted(PACKAGE.rglob("*.py"))
        for number in re.findall(r"\b(?:0x)?([0-9A-Fa-f]{4})\b", path.read_text(encoding="utf-8"))
        if written.fullmatch(number)
    ]
    assert found == [(Path("statuses.py"), f"{status}") for status in Status if status is not Status.SUCCESS]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_text_names_only_statuses_that_exist(path: Path) -> None:
    assert named(path.read_text(encoding="utf-8")) <= {str(status) for status in Status}


def test_the_runbook_explains_every_failure() -> None:
    table = rows(section(RUNBOOK.read_text(encoding="utf-8"), "DicomdStoreFailing"))
    explained = {number for row in table for number in re.findall(r"\b[0-9A-F]{4}\b", row[0])}
    assert explained == SENT - {str(Status.SUCCESS)}


def test_the_catalog_explains_every_failure_of_a_c_store() -> None:
    text = CATALOG.read_text(encoding="utf-8")
    entry = text.partition("Subject: SOP Instance not stored")[2].partition("\n-- ")[0]
    explained = set(re.findall(r"\b([0-9A-F]{4})\b", entry))
    assert explained == SENT - {str(Status.SUCCESS), str(Status.UNRECOGNIZED_OPERATION)}


def test_a_number_is_seen_however_it_is_written() -> None:
    assert named("0xA700, A701: C010; 0x0117 but 0750, DICOM and ABCD") == {"A700", "A701", "C010", "0117"}
