"""A rejected requestor's proposal in its log line: parsed without trust, judged as in a negotiation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomd.net.described_contexts import named_contexts
from dicomd.upperlayer import negotiation
from dicomd.upperlayer.negotiation import AssociateRequest, Negotiator
from dicomd.upperlayer.proposals import MAX_SHOWN, name_of
from tests.support.encoding import item
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


def receiver(sop_classes: list[str] | None = None) -> Negotiator:
    return Negotiator(
        sop_classes=sop_classes,
        transfer_syntaxes=[EXPLICIT_LITTLE],
        max_pdu=16384,
        implementation_class_uid="1.2.3",
        implementation_version_name="X",
    )


def test_the_judgement_is_that_of_a_negotiation() -> None:
    negotiator = receiver([CT_IMAGE_STORAGE, MR_IMAGE_STORAGE])
    asked = request(PROPOSALS)
    negotiated = negotiator.negotiate(asked)
    results = {context.context_id: context.result for context in negotiated.refused}
    found = negotiator.judge_unanswered(asked)
    assert found.proposed == negotiated.proposed == len(PROPOSALS)
    for context in found.contexts:
        assert context.result == results.get(context.context_id, 0), context
    assert {context.context_id: context.result for context in found.contexts} == {1: 0, 3: 4, 5: 3, 7: 0, 9: 4}


def test_what_cannot_be_read_is_not_called_acceptable() -> None:
    found = receiver().judge_unanswered(
        request([(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE])] + [(CT_IMAGE_STORAGE, [])] * 19)
    )
    assert (found.proposed, found.refused) == (20, 19)
    assert named_contexts(found.contexts, proposed=20, refused=19) == ["and 20 more, 19 of them refused"]


def test_the_refused_come_first_and_no_more_than_are_shown() -> None:
    proposals = [(MR_IMAGE_STORAGE, [EXPLICIT_LITTLE])] * 60 + [(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE])] * 10
    found = receiver([MR_IMAGE_STORAGE]).judge_unanswered(request(proposals))
    assert found.proposed == 70
    assert [context.result for context in found.contexts] == [3] * 10 + [0] * (MAX_SHOWN - 10)
    assert [context.context_id for context in found.contexts[:2]] == [121, 123]


def test_what_no_line_shows_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    judge = negotiation.ContextJudge.judge
    monkeypatch.setattr(
        negotiation.ContextJudge, "judge", lambda self, *arguments: judged.append(1) or judge(self, *arguments)
    )
    found = receiver([]).judge_unanswered(request([(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE])] * 128))
    assert len(judged) == len(found.contexts) == MAX_SHOWN


def test_what_is_kept_of_a_refused_context_is_bounded() -> None:
    syntaxes = [f"1.2.3.{number}" for number in range(128)]
    negotiated = receiver([]).negotiate(request([(CT_IMAGE_STORAGE, syntaxes)] * 128))
    assert negotiated.proposed == 128
    assert len(negotiated.refused) == MAX_SHOWN
    assert negotiated.refused[0].transfer_syntaxes == tuple(syntaxes[:MAX_SHOWN])
    assert negotiated.refused[0].more == 128 - MAX_SHOWN


def test_without_a_list_every_abstract_syntax_is_taken() -> None:
    (context,) = receiver().judge_unanswered(request([("1.2.3", [EXPLICIT_LITTLE])])).contexts
    assert context == (1, "1.2.3", (EXPLICIT_LITTLE,), 0, 0)


@given(st.binary(max_size=400))
def test_no_bytes_raise(data: bytes) -> None:
    asked = AssociateRequest.from_body(bytes(68) + data)
    for context in receiver([CT_IMAGE_STORAGE]).judge_unanswered(asked).contexts:
        assert isinstance(context.abstract_syntax, str)


def test_a_broken_context_does_not_hide_the_others() -> None:
    asked = request(PROPOSALS)
    broken = struct.pack(">BBHBBBB", 0x20, 0, 4, 1, 0, 0, 0)
    changed = AssociateRequest.from_body(bytes(68) + broken + asked.variable_items)
    assert len(receiver().judge_unanswered(changed).contexts) == len(PROPOSALS)


def test_a_request_that_ends_too_early_shows_nothing() -> None:
    items = request(PROPOSALS).variable_items
    cut = AssociateRequest.from_body(bytes(68) + items[: len(items) // 2])
    assert receiver().judge_unanswered(cut) == negotiation.Unanswered(0, 0, ())


def test_names_are_those_of_the_standard() -> None:
    assert name_of(CT_IMAGE_STORAGE) == "CT Image Storage"
    assert name_of("1.2.3") == ""


@pytest.mark.parametrize("count", [1, MAX_SHOWN, MAX_SHOWN + 1, 128])
@pytest.mark.parametrize("abstract_syntax_first", [True, False])
def test_what_is_shown_of_a_context_is_its_beginning(count: int, abstract_syntax_first: bool) -> None:
    abstract_syntax = item(0x30, STUDY_ROOT_FIND.encode())
    transfer_syntaxes = [f"1.2.3.{number}" for number in range(count)]
    sub_items = b"".join(item(0x40, uid.encode()) for uid in transfer_syntaxes)
    ordered = abstract_syntax + sub_items if abstract_syntax_first else sub_items + abstract_syntax
    asked = AssociateRequest.from_body(bytes(68) + item(0x20, b"\7\0\0\0" + ordered))
    expected = (7, STUDY_ROOT_FIND, tuple(transfer_syntaxes[:MAX_SHOWN]), max(0, count - MAX_SHOWN), 3)
    assert receiver([]).negotiate(asked).refused == (expected,)
    assert receiver([]).judge_unanswered(asked).contexts == (expected,)


@given(st.binary(max_size=200))
def test_a_refused_context_is_shown_whatever_follows_its_first_transfer_syntax(rest: bytes) -> None:
    """If the abstract syntax isn't supported, the other transfer syntaxes aren't examined."""
    context = b"\7\0\0\0" + item(0x30, STUDY_ROOT_FIND.encode()) + item(0x40, b"1.2.3") + rest
    negotiated = receiver([]).negotiate(AssociateRequest.from_body(bytes(68) + item(0x20, context)))
    assert [shown.transfer_syntaxes[0] for shown in negotiated.refused] == ["1.2.3"]
