"""What a rejected requestor wanted, as its log line has it: read without trust, judged as a negotiation would."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from dicomd.upperlayer.negotiation import AssociateRequest, Negotiator
from dicomd.upperlayer.proposals import MAX_SHOWN, judged, name_of
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, MR_IMAGE_STORAGE, STUDY_ROOT_FIND, VERIFICATION
from tests.support.raw_peer import associate_rq

JPEG = "1.2.840.10008.1.2.4.50"
PROPOSALS = [
    (CT_IMAGE_STORAGE, [JPEG, EXPLICIT_LITTLE]),
    (MR_IMAGE_STORAGE, [JPEG]),
    (STUDY_ROOT_FIND, [EXPLICIT_LITTLE]),
    (VERIFICATION, [EXPLICIT_LITTLE]),
    (VERIFICATION, [JPEG]),
]


def request(proposals: list[tuple[str, list[str]]]) -> AssociateRequest:
    return AssociateRequest.from_body(associate_rq(proposals)[6:])


def test_the_judgement_is_that_of_a_negotiation() -> None:
    negotiator = Negotiator(
        sop_classes=[CT_IMAGE_STORAGE, MR_IMAGE_STORAGE],
        transfer_syntaxes=[EXPLICIT_LITTLE],
        max_pdu=16384,
        implementation_class_uid="1.2.3",
        implementation_version_name="X",
    )
    asked = request(PROPOSALS)
    negotiated = negotiator.negotiate(asked)
    results = {context.context_id: context.result for context in negotiated.refused}
    for context in negotiator.judge_unanswered(asked):
        assert context.result == results.get(context.context_id, 0), context
    assert [context.result for context in negotiator.judge_unanswered(asked)] == [0, 4, 3, 0, 4]


def test_without_a_list_every_abstract_syntax_is_taken() -> None:
    (context,) = judged(request([("1.2.3", [EXPLICIT_LITTLE])]).variable_items, None, [EXPLICIT_LITTLE])
    assert context == (1, "1.2.3", (EXPLICIT_LITTLE,), 0)


@given(st.binary(max_size=400))
def test_no_bytes_raise(data: bytes) -> None:
    for context in judged(data, [CT_IMAGE_STORAGE], [EXPLICIT_LITTLE]):
        assert isinstance(context.abstract_syntax, str)


def test_no_more_than_the_standard_s_contexts_are_read() -> None:
    item = struct.pack(">BBHBBBB", 0x20, 0, 4, 1, 0, 0, 0)
    assert len(judged(item * (MAX_SHOWN + 50), None, [])) == MAX_SHOWN


def test_what_follows_a_broken_item_is_left_out() -> None:
    items = request(PROPOSALS).variable_items
    assert 0 < len(judged(items[: len(items) // 2], None, [])) < len(PROPOSALS)


def test_names_are_those_of_the_standard() -> None:
    assert name_of(CT_IMAGE_STORAGE) == "CT Image Storage"
    assert name_of("1.2.3") == ""
