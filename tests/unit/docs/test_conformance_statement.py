"""The Conformance Statement and the architecture agree with the code. After a change of the code, run:

.venv/bin/python -m tests.unit.docs.generated
"""

import json
import re

import pytest

from dicomd.aborts import AbortReason
from dicomd.audit.alerts import MERGED_FOR, MOST_KINDS
from dicomd.audit.spool import MOST_MESSAGES
from dicomd.audit.trail import MOST_WAITING
from dicomd.audit.transfers import MOST_ENTRIES
from dicomd.audit.waiting import ALERTS_PART
from dicomd.config.contexts import resolve
from dicomd.dimse.commands import MAX_COMMAND_SET
from dicomd.net.deadlines import TimeLimits
from dicomd.rejections import RejectReason
from dicomd.statuses import Status
from dicomd.store import publish
from dicomd.store.head import MAX_VALUE
from dicomd.uids import MAX_UID_LENGTH
from dicomd.upperlayer.negotiation import STORAGE_APPLICATION_INFORMATION
from tests.unit.docs.generated import STATEMENT, with_parts
from tests.unit.docs.markdown import ROOT, rows, section

TEXT = STATEMENT.read_text(encoding="utf-8")


def source_of(*rooms: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for room in rooms for path in ROOT.glob(f"dicomd/{room}/*.py"))


def test_generated_parts_are_current() -> None:
    assert with_parts(TEXT) == TEXT, "out of date; regenerate it: python -m tests.unit.docs.generated"


def test_what_the_page_says_of_all_storage_is_so() -> None:
    prose = section(TEXT, "8.1 SOP Classes of `all-storage`").partition("<!-- end: sop-classes -->")[2]
    group = set(resolve(["all-storage"], []).sop_classes or ())
    examples = [json.loads(found) for found in re.findall(r"`sop_classes =\s(\[[^`]*\])`", prose)]
    for example in examples:
        named = resolve([name for name in example if name != "all-storage"], []).sop_classes or ()
        if "all-storage" in example:  # then what is named besides must not be in the group already
            assert set(named).isdisjoint(group)
        else:
            assert group.issuperset(named)
    assert len(examples) == 2
    for keyword in (
        "UltrasoundImageStorageRetired",
        "HangingProtocolStorage",
        "DICOSCTImageStorage",
        "EddyCurrentImageStorage",
    ):
        assert group.issuperset(resolve([keyword], []).sop_classes or ())
    assert "current and retired ones, those of Non-Patient Object" in prose
    edition = re.search(r"PS3\.6 \d{4}[a-e]", (ROOT / "tests/support/ps3.6-uids.csv").read_text(encoding="utf-8"))
    assert edition is not None
    assert edition[0] in prose


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


NUMBERS: list[tuple[str, int]] = [
    ("Command Set malformed or over {} KiB", MAX_COMMAND_SET // 1024),
    ("lowest rate of a peer in the middle of a message, averaged over {} s", int(TimeLimits().window)),
    ("digits and dots, at most {} characters", MAX_UID_LENGTH),
    ("at most {} under one UID, then 0xC010", publish._MAX_DIFFERENT),  # noqa: SLF001 - only this page shows it
    ("After every {} SOP Classes of studies a new message is begun", MOST_ENTRIES),
    ("if it precedes Series Instance UID, at most {} bytes of it", MAX_VALUE),
    ("Each worker queues up to {} events", MOST_WAITING),
    ("the spool holds up to {} messages", MOST_MESSAGES),
    ("Beyond {} combinations of AE Title and reason of one host in that minute", MOST_KINDS),
]
"""Limits that are no configuration keys, in the words around them."""


@pytest.mark.parametrize(("words", "number"), NUMBERS, ids=lambda value: str(value)[:40])
def test_a_number_in_the_text_is_the_one_in_the_code(words: str, number: int) -> None:
    assert words.format(f"{number:,}") in " ".join(TEXT.split())


def test_a_part_of_the_audit_trail_and_the_time_of_merged_alerts_are_as_stated() -> None:
    text = " ".join(TEXT.split())
    assert "Of both, a quarter is reserved for Security Alerts" in text
    assert ALERTS_PART == 4
    assert "All others of the following minute are reported in one message" in text
    assert MERGED_FOR == 60.0


def test_every_status_that_is_sent_is_demanded_by_a_test_of_the_running_daemon() -> None:
    sent = [status for status in Status if "*Not sent" not in status.meaning]
    tests = "\n".join(
        path.read_text(encoding="utf-8") for folder in ("daemon", "crash") for path in ROOT.glob(f"tests/{folder}/*.py")
    )
    assert [status.name for status in sent if f"{status}" not in tests and status.name not in tests] == []
