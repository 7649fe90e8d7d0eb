"""The Conformance Statement and the architecture agree with the code. After a change of the code, run:

.venv/bin/python -m tests.unit.docs.generated
"""

import re

import pytest

from dicomd.aborts import AbortReason
from dicomd.rejections import RejectReason
from dicomd.statuses import Status
from dicomd.upperlayer.negotiation import STORAGE_APPLICATION_INFORMATION
from tests.unit.docs.generated import STATEMENT, with_parts
from tests.unit.docs.markdown import ROOT, rows, section

TEXT = STATEMENT.read_text(encoding="utf-8")


def source_of(*rooms: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for room in rooms for path in ROOT.glob(f"dicomd/{room}/*.py"))


def test_generated_parts_are_current() -> None:
    assert with_parts(TEXT) == TEXT, "out of date; regenerate it: python -m tests.unit.docs.generated"


def test_a_part_without_its_place_is_seen() -> None:
    with pytest.raises(LookupError, match="sop-classes"):
        with_parts(TEXT.replace("<!-- generated: sop-classes -->\n", ""))


def test_statuses_that_nothing_answers_with_are_marked() -> None:
    answering = source_of("dimse", "services", "store")
    unused = {status for status in Status if not re.search(rf"\bStatus\.{status.name}\b", answering)}
    assert {status for status in Status if "*Not sent" in status.meaning} == unused


def test_every_rejection_that_can_be_sent_is_explained() -> None:
    shown = {tuple(map(int, row[0].split(" / "))) for row in rows(section(TEXT, "Rejections"))}
    made = {RejectReason[name].codes for name in re.findall(r"Rejection\(\s*RejectReason\.(\w+)", source_of("net"))}
    assert shown == made


def test_every_abort_reason_that_can_be_sent_is_explained() -> None:
    shown = {tuple(map(int, row[0].split(" / "))) for row in rows(section(TEXT, "Aborts"))}
    sending = source_of("net", "upperlayer")
    used = {reason for reason in AbortReason if re.search(rf"\bAbortReason\.{reason.name}\b", sending)}
    assert {reason for source, reason in shown if source == 2} == {int(reason) for reason in used if reason}
    assert (0, 0) in shown


def test_what_extended_negotiation_answers_is_what_is_stated() -> None:
    level, _, signatures, _, coercion, _ = STORAGE_APPLICATION_INFORMATION
    (answer,) = [row[1] for row in rows(TEXT) if row[0].startswith("SOP Class Extended Negotiation")]
    assert f"support {level} (Full)" in answer
    assert f"support {signatures} (Bit Preserving)" in answer
    assert f"Coercion {coercion} (none)" in answer
