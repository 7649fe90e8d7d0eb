"""Negotiation: requests are encoded and answers decoded by pynetdicom."""

import struct
from typing import Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    ImplementationVersionNameNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from dicomd.upperlayer.contexts import ContextJudge
from dicomd.upperlayer.items import MalformedRequestError
from dicomd.upperlayer.negotiation import AssociateRequest, Negotiator, associate_ac
from dicomd.upperlayer.proposals import MAX_ITEMS, MAX_SHOWN, MAX_SUB_ITEMS
from tests.support.cost import calls
from tests.support.encoding import item
from tests.support.raw_peer import associate_rq
from tests.support.wire import accepted_contexts

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"


def negotiator(
    sop_classes: tuple[str, ...] | None = (CT,),
    transfer_syntaxes: tuple[str, ...] = (EXPLICIT, IMPLICIT),
    *,
    any_storage: bool = False,
    asynchronous_operations: int = 1,
) -> Negotiator:
    return Negotiator(
        sop_classes=sop_classes,
        any_storage=any_storage,
        transfer_syntaxes=transfer_syntaxes,
        max_pdu=262144,
        implementation_class_uid="2.25.1",
        implementation_version_name="DICOMD_TEST",
        asynchronous_operations=asynchronous_operations,
    )


def encoded(contexts: list[tuple[str, list[str]]], *extra: object, called: str = "SCP", max_pdu: int = 16384) -> bytes:
    """The body of an A-ASSOCIATE-RQ."""
    return associate_rq(contexts, called=called, calling="SCU", max_length=max_pdu, user_information=extra)[6:]


def answer(body: bytes, judge: Negotiator) -> A_ASSOCIATE_AC:
    request = AssociateRequest.from_body(body)
    pdu = A_ASSOCIATE_AC()
    pdu.decode(associate_ac(request, judge.negotiate(request)))
    return pdu


def test_the_acceptors_preference_decides_the_transfer_syntax() -> None:
    body = encoded([(CT, [IMPLICIT, EXPLICIT])])
    result = negotiator().negotiate(AssociateRequest.from_body(body))
    assert result.contexts[1].transfer_syntax == EXPLICIT
    assert result.max_pdu == 16384


def test_each_refused_context_says_why() -> None:
    body = encoded([(MR, [EXPLICIT]), (CT, [JPEG]), (CT, [IMPLICIT])])
    result = negotiator().negotiate(AssociateRequest.from_body(body))
    assert {c.context_id: c.result for c in result.refused} == {1: 3, 3: 4}
    assert list(result.contexts) == [5]
    assert [c.result for c in answer(body, negotiator()).presentation_context] == [3, 4, 0]


def test_any_takes_every_abstract_syntax() -> None:
    body = encoded([("1.2.3.4.5", [EXPLICIT])])
    assert (
        negotiator(sop_classes=None).negotiate(AssociateRequest.from_body(body)).contexts[1].abstract_syntax
        == "1.2.3.4.5"
    )


def test_verification_is_always_accepted_in_an_uncompressed_syntax() -> None:
    body = encoded([(VERIFICATION, [IMPLICIT])])
    result = negotiator(transfer_syntaxes=(JPEG,)).negotiate(AssociateRequest.from_body(body))
    assert result.contexts[1].transfer_syntax == IMPLICIT


def test_the_answer_echoes_titles_and_reserved_bytes() -> None:
    body = bytearray(encoded([(CT, [EXPLICIT])], called="SOME_SCP"))
    body[36:68] = bytes(range(32))
    request = AssociateRequest.from_body(bytes(body))
    assert (request.called_ae_title, request.calling_ae_title) == ("SOME_SCP", "SCU")
    sent = associate_ac(request, negotiator().negotiate(request))
    assert sent[10:74] == bytes(body[4:68])


def test_a_cached_answer_is_byte_identical_but_for_the_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = negotiator()
    first, second = (AssociateRequest.from_body(encoded([(CT, [EXPLICIT])], called=name)) for name in ("ONE", "TWO"))
    computed = associate_ac(first, judge.negotiate(first))
    monkeypatch.setattr(ContextJudge, "judge", None)  # so that judging again fails
    again = associate_ac(second, judge.negotiate(second))
    assert again[74:] == computed[74:]
    assert again[10:26] != computed[10:26]


def role(uid: str, *, scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = uid, scu, scp
    return item


def test_the_requestor_may_be_scu_and_no_scp() -> None:
    pdu = answer(encoded([(CT, [EXPLICIT])], role(CT, scu=True, scp=True)), negotiator())
    selected = pdu.user_information.role_selection[CT]
    assert (selected.scu_role, selected.scp_role) == (1, 0)
    assert pdu.presentation_context[0].result == 0


def test_a_requestor_that_will_only_be_scp_is_refused() -> None:
    result = negotiator().negotiate(
        AssociateRequest.from_body(encoded([(CT, [EXPLICIT])], role(CT, scu=False, scp=True)))
    )
    assert [c.result for c in result.refused] == [1]


@pytest.mark.parametrize(
    ("limit", "proposed", "answered"),
    [(1, 16, 1), (1, 0, 1), (8, 0, 8), (8, 16, 8), (8, 8, 8), (8, 3, 3), (8, 1, 1)],
)
def test_as_many_operations_may_be_outstanding_as_both_sides_allow(limit: int, proposed: int, answered: int) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked, window.maximum_number_operations_performed = proposed, 16
    sent, receiver = encoded([(CT, [EXPLICIT])], window), negotiator(asynchronous_operations=limit)
    item = answer(sent, receiver).user_information.async_ops_window
    assert (item.maximum_number_operations_invoked, item.maximum_number_operations_performed) == (answered, 1)
    assert receiver.negotiate(AssociateRequest.from_body(sent)).operations_invoked == answered


def test_without_a_proposed_window_none_is_answered_and_requests_are_served_one_by_one() -> None:
    sent, receiver = encoded([(CT, [EXPLICIT])]), negotiator(asynchronous_operations=8)
    assert answer(sent, receiver).user_information.async_ops_window is None
    assert receiver.negotiate(AssociateRequest.from_body(sent)).operations_invoked == 1


def test_storage_extended_negotiation_is_answered_for_accepted_contexts_only() -> None:
    offers = []
    for uid in (CT, MR):
        offer = SOPClassExtendedNegotiation()
        offer.sop_class_uid, offer.service_class_application_information = uid, b"\2\0\3\0\1\0"
        offers.append(offer)
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = CT, "1.2.840.10008.4.2"
    pdu = answer(encoded([(CT, [EXPLICIT]), (MR, [EXPLICIT])], *offers, common), negotiator())
    assert {i.uid: i.app_info for i in pdu.user_information.ext_neg} == {CT: b"\2\0\3\0\0\0"}


def test_only_what_the_answer_depends_on_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Varying names, user identities and offers don't cause the contexts to be judged again."""
    judged: list[bytes] = []
    original = ContextJudge.judge

    def counted(self: ContextJudge, context: bytes, *more: Any) -> Any:
        judged.append(context)
        return original(self, context, *more)

    monkeypatch.setattr(ContextJudge, "judge", counted)
    judge = negotiator()
    for number in range(5):
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = f"V{number}"
        identity = UserIdentityNegotiation()
        identity.user_identity_type, identity.primary_field = 1, b"somebody"
        offer = SOPClassExtendedNegotiation()
        offer.sop_class_uid, offer.service_class_application_information = CT, b"\2"
        for extra in ([version], [identity], [offer, version]):
            body = encoded([(CT, [EXPLICIT])], *extra)
            negotiated = judge.negotiate(AssociateRequest.from_body(body))
            assert negotiated.implementation_version_name == (f"V{number}" if version in extra else "")
            assert bool(answer(body, judge).user_information.ext_neg) == (offer in extra)
    assert len(judged) == 1


def test_contexts_that_only_look_alike_when_joined_are_not_taken_for_each_other() -> None:
    """The second context is in the last item of the first, which isn't read as its abstract syntax isn't supported."""
    judge = negotiator()
    first = b"\1\0\0\0" + b"\x30\0\0\3" + b"1.2" + b"\x40\0\0\3" + b"1.2"
    second = b"\3\0\0\0" + b"\x30\0\0\3" + b"1.2" + b"\x40\0\0\3" + b"1.2"
    two, one = (
        AssociateRequest.from_body(bytes(68) + b"".join(item(0x20, context) for context in contexts))
        for contexts in ([first, second], [first + second])
    )
    assert [judge.negotiate(request).proposed for request in (two, one)] == [2, 1]
    assert [len(judge.negotiate(request).refused) for request in (two, one)] == [2, 1]


def test_user_identity_gets_no_answer() -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.positive_response_requested = 1, b"somebody", True
    pdu = answer(encoded([(CT, [EXPLICIT])], identity), negotiator())
    assert pdu.user_information.user_identity is None


def test_an_odd_user_identity_is_ignored_like_any() -> None:
    body = encoded([(CT, [EXPLICIT])])
    broken = with_sub_items(body, b"\x58\0\0\x02\xff\xff")
    assert negotiator().negotiate(AssociateRequest.from_body(broken)).contexts


def with_sub_items(body: bytes, sub_items: bytes) -> bytes:
    """`body`, whose last item is the User Information, with these sub-items appended to it."""
    at = body.rindex(b"\x50\0", 0, len(body) - 4)
    length = struct.unpack_from(">H", body, at + 2)[0]
    return body[: at + 2] + struct.pack(">H", length + len(sub_items)) + body[at + 4 :] + sub_items


def test_an_implementation_version_name_that_is_not_ascii_costs_nobody_the_association() -> None:
    body = with_sub_items(encoded([(CT, [EXPLICIT])]), b"\x55\0\0\x06" + "Görlitz".encode("latin-1")[:6])
    negotiated = negotiator().negotiate(AssociateRequest.from_body(body))
    assert negotiated.contexts
    assert not negotiated.implementation_version_name


def test_unknown_items_are_passed_over() -> None:
    body = with_sub_items(encoded([(CT, [EXPLICIT])]), b"\x77\0\0\x03abc") + b"\x99\0\0\x02ab"
    assert negotiator().negotiate(AssociateRequest.from_body(body)).contexts


@pytest.mark.parametrize(
    "items",
    [
        b"\x10",
        b"\x10\0\xff\xff" + b"1.2",
        b"\x20\0\0\x04\2\0\0\0",  # no context can be answered
        b"\x20\0\0\0",
        b"\x50\0\0\x04\x51\0\0\xff",
    ],
)
def test_malformed_items_are_malformed(items: bytes) -> None:
    request = AssociateRequest.from_body(bytes((0, 1)) + bytes(66) + items)
    with pytest.raises(MalformedRequestError):
        negotiator().negotiate(request)


ABSTRACT_CT, EXPLICIT_ITEM = item(0x30, CT.encode()), item(0x40, EXPLICIT.encode())


@pytest.mark.parametrize(
    ("context", "result", "why"),
    [
        (b"", None, "a Presentation Context is empty"),
        (b"\2\0\0\0" + ABSTRACT_CT + EXPLICIT_ITEM, None, "Presentation Context ID 2 is not an odd number"),
        (b"\0\0\0\0" + ABSTRACT_CT + EXPLICIT_ITEM, None, "Presentation Context ID 0 is not an odd number"),
        (b"\1\0\0\0" + ABSTRACT_CT + item(0x40, IMPLICIT.encode()), 0, "Presentation Context 1 is proposed again"),
        (b"\5\0", 3, "Presentation Context 5 has 2 bytes"),
        (b"\5\0\0\0", 3, "Presentation Context 5 has no abstract syntax"),
        (b"\5\0\0\0" + item(0x30, b"") + EXPLICIT_ITEM, 3, "Presentation Context 5 has no abstract syntax"),
        (b"\5\0\0\0" + item(0x30, b"\xff\xff") + EXPLICIT_ITEM, 3, "a UID that is not text"),
        (b"\5\0\0\0" + item(0x30, b"1" * 65) + EXPLICIT_ITEM, 3, "a UID of 65 characters"),
        (b"\5\0\0\0\x30\0\0\x09" + CT.encode()[:5], 3, "its abstract syntax announces 9 bytes, and 5 follow"),
        (b"\5\0\0\0" + EXPLICIT_ITEM + ABSTRACT_CT + ABSTRACT_CT, 3, "has 2 abstract syntaxes instead of one"),
        (b"\5\0\0\0" + ABSTRACT_CT + EXPLICIT_ITEM + ABSTRACT_CT, 4, "has two abstract syntaxes instead of one"),
        (b"\5\0\0\0" + ABSTRACT_CT, 4, "Presentation Context 5 has no valid Transfer Syntax"),
        (b"\5\0\0\0" + ABSTRACT_CT + item(0x40, b""), 4, "Presentation Context 5 has no valid Transfer Syntax"),
        (b"\5\0\0\0" + ABSTRACT_CT + item(0x40, b"\xff"), 4, "Presentation Context 5 has no valid Transfer Syntax"),
        (b"\5\0\0\0" + ABSTRACT_CT + b"\x40\0\0\x09" + b"1.2", 4, "its last sub-item announces 6 bytes more"),
    ],
)
def test_a_context_that_cannot_be_served_does_not_cost_the_good_ones(
    context: bytes, result: int | None, why: str
) -> None:
    """It is answered with 3 or 4, or not at all without a valid ID; the good one is served, and the log says why."""
    request = AssociateRequest.from_body(encoded([(CT, [EXPLICIT])]) + item(0x20, context))
    judge = negotiator()
    negotiated = judge.negotiate(request)
    assert {number: found.transfer_syntax for number, found in negotiated.contexts.items()} == {1: EXPLICIT}
    results = {
        number: found.result for number, found in accepted_contexts(associate_ac(request, negotiated)[6:]).items()
    }
    assert results == {1: 0} | ({5: result} if result else {})
    (skipped,) = negotiated.skipped
    assert why in skipped
    assert judge.negotiate(request) == negotiated


@pytest.mark.parametrize(
    ("sub_item", "why"),
    [
        (item(0x51, bytes(3)), "Maximum Length (51H): has 3 bytes instead of 4"),
        (item(0x52, b"1" * 65), "Implementation Class UID (52H): has a UID of 65 characters, and 64 is the limit"),
        (item(0x52, b"\xe4"), "Implementation Class UID (52H): has a UID that is not text"),
        (item(0x53, bytes(2)), "Asynchronous Operations Window (53H): has 2 bytes instead of 4"),
        (item(0x53, bytes(6)), "Asynchronous Operations Window (53H): has 6 bytes instead of 4"),
        (
            item(0x54, b"\0\3" + b"1.2" + b"\2\0"),
            "SCP/SCU Role Selection (54H): the roles of 1.2 are 02 00, not 0 or 1 each",
        ),
        (item(0x54, b"\0\3" + b"1.2"), "SCP/SCU Role Selection (54H): the roles of 1.2 are missing, not 0 or 1 each"),
        (item(0x54, b"\0"), "SCP/SCU Role Selection (54H): has no UID"),
        (item(0x55, b"ACME-SCANNER-V7.1"), "Implementation Version Name (55H): has 17 bytes, not up to 16"),
        (
            item(0x56, b"\0\x09" + b"1.2"),
            "SOP Class Extended Negotiation (56H): its UID announces 9 bytes, and 3 follow",
        ),
        (item(0x57, b"\0\3" + b"1.2"), "SOP Class Common Extended Negotiation (57H): has no UID"),
    ],
)
def test_a_sub_item_that_cannot_be_read_costs_nobody_the_association(sub_item: bytes, why: str) -> None:
    body = with_sub_items(encoded([(CT, [EXPLICIT])]), sub_item)
    negotiated = negotiator().negotiate(AssociateRequest.from_body(body))
    assert negotiated.contexts.keys() == {1}
    (skipped,) = negotiated.skipped
    assert skipped.startswith(why)


def test_what_is_kept_of_skipped_items_is_bounded() -> None:
    body = with_sub_items(encoded([(CT, [EXPLICIT])]), item(0x54, b"\0") * 100)
    body += b"".join(item(0x20, b"\4\0\0\0") for _ in range(100))
    assert len(negotiator().negotiate(AssociateRequest.from_body(body)).skipped) == MAX_SHOWN


@pytest.mark.parametrize("padding", ["\0", " ", "\0" * 44, " \0" * 32])
def test_padding_does_not_count_as_length(padding: str) -> None:
    """Some requestors fill a field of fixed size, of 64 or 128 bytes, with NULs or spaces."""
    context = item(0x30, (CT + padding).encode()) + item(0x40, (EXPLICIT + padding).encode())
    request = AssociateRequest.from_body(encoded([]) + item(0x20, b"\1\0\0\0" + context))
    (found,) = negotiator().negotiate(request).contexts.values()
    assert (found.abstract_syntax, found.transfer_syntax) == (CT, EXPLICIT)


@pytest.mark.parametrize("rest", [EXPLICIT_ITEM * 128, EXPLICIT_ITEM + item(0x7F, b"new") * 127])
def test_what_exceeds_the_limit_in_a_presentation_context_is_called_by_its_name(rest: bytes) -> None:
    context = item(0x20, b"\1\0\0\0" + ABSTRACT_CT + rest)
    assert negotiator().negotiate(AssociateRequest.from_body(bytes(68) + context)).contexts
    longer = item(0x20, b"\1\0\0\0" + ABSTRACT_CT + rest + EXPLICIT_ITEM)
    with pytest.raises(MalformedRequestError, match="more than 128 Transfer Syntaxes or unknown sub-items") as caught:
        negotiator().negotiate(AssociateRequest.from_body(bytes(68) + longer))
    assert caught.value.limit == "transfer_syntaxes"


def test_an_unknown_item_is_passed_over_inside_a_presentation_context() -> None:
    unknown = item(0x7F, b"new")
    for context in (
        ABSTRACT_CT + EXPLICIT_ITEM + unknown,
        ABSTRACT_CT + unknown + EXPLICIT_ITEM,
        unknown + ABSTRACT_CT + EXPLICIT_ITEM,
    ):
        request = AssociateRequest.from_body(encoded([]) + item(0x20, b"\1\0\0\0" + context))
        negotiated = negotiator().negotiate(request)
        assert negotiated.contexts.keys() == {1}
        assert negotiated.skipped == ()


def common_extended(sop_class: str, service_class: str, *, rest: bytes = b"\0\0") -> bytes:
    """A SOP Class Common Extended Negotiation sub-item (PS3.7 Table D.3-12)."""
    return item(0x57, b"".join(struct.pack(">H", len(uid)) + uid.encode() for uid in (sop_class, service_class)) + rest)


STORAGE, WORKLIST = "1.2.840.10008.4.2", "1.2.840.10008.5.1.4.31"
NEW_CLASS = "1.2.840.10008.5.1.4.1.1.9999.1"


@pytest.mark.parametrize(
    ("sub_item", "accepted"),
    [
        (common_extended(NEW_CLASS, STORAGE), True),
        (common_extended(NEW_CLASS, STORAGE, rest=b"\0\5\0\3" + b"1.2" + bytes(7)), True),
        (common_extended(NEW_CLASS, "1.2.840.10008.4.999"), False),
        (common_extended("1.2.3", STORAGE), False),
        (b"", False),
    ],
)
def test_an_unknown_class_of_the_storage_service_class_is_storage(sub_item: bytes, accepted: bool) -> None:
    body = with_sub_items(encoded([(NEW_CLASS, [EXPLICIT])]), sub_item)
    request = AssociateRequest.from_body(body)
    assert bool(negotiator(any_storage=True).negotiate(request).contexts) == accepted
    assert not negotiator().negotiate(request).contexts
    assert negotiator(any_storage=True).judge_unanswered(request).contexts[0].result == (0 if accepted else 3)


def test_a_class_that_is_known_as_another_is_not_storage_by_its_requestor_s_word() -> None:
    body = with_sub_items(encoded([(WORKLIST, [EXPLICIT])]), common_extended(WORKLIST, STORAGE))
    assert not negotiator(any_storage=True).negotiate(AssociateRequest.from_body(body)).contexts


@pytest.mark.parametrize("name", ["../x", "1.2.3\x01", "1..2", "CTImageStorage"])
def test_what_is_no_uid_is_not_storage_by_its_requestor_s_word(name: str) -> None:
    context = item(0x20, b"\5\0\0\0" + item(0x30, name.encode()) + EXPLICIT_ITEM)
    body = with_sub_items(encoded([(CT, [EXPLICIT])]), common_extended(name, STORAGE)) + context
    assert list(negotiator(any_storage=True).negotiate(AssociateRequest.from_body(body)).contexts) == [1]


def test_too_many_sub_items_are_malformed() -> None:
    body = with_sub_items(encoded([(CT, [EXPLICIT])]), b"\x77\0\0\0" * MAX_SUB_ITEMS)
    with pytest.raises(MalformedRequestError, match="sub-items"):
        negotiator().negotiate(AssociateRequest.from_body(body))


def test_too_many_items_are_malformed() -> None:
    body = encoded([(CT, [EXPLICIT])]) + b"\x10\0\0\x011" * MAX_ITEMS
    with pytest.raises(MalformedRequestError, match="items") as caught:
        negotiator().negotiate(AssociateRequest.from_body(body))
    assert caught.value.limit == "items"


def test_sub_items_are_counted_over_all_items_that_hold_them() -> None:
    items = item(0x50, item(0x77, b"") * 600)
    judge = negotiator()
    judge.negotiate(AssociateRequest.from_body(encoded([(CT, [EXPLICIT])]) + items))
    with pytest.raises(MalformedRequestError, match="sub-items") as caught:
        judge.negotiate(AssociateRequest.from_body(encoded([(CT, [EXPLICIT])]) + items * 2))
    assert caught.value.limit == "user_information"


@pytest.mark.parametrize(("sop_class", "a_context"), [(CT, 2 * 128), (MR, 60)], ids=["supported", "not supported"])
def test_the_largest_proposal_costs_little(sop_class: str, a_context: int) -> None:
    """128 contexts of 128 Transfer Syntaxes, all lists different; pynetdicom's codecs make 1.3 million calls."""
    uids = [[f"1.2.{number}.{context}" for number in range(128)] for context in range(128)]
    contexts = [
        bytes((2 * number + 1, 0, 0, 0)) + b"".join(
            item(kind, uid.encode())
            for kind, uid in [(0x30, sop_class), *((0x40, uid) for uid in syntaxes)]
        )
        for number, syntaxes in enumerate(uids)
    ]  # fmt: skip
    body = bytes(68) + b"".join(item(0x20, context) for context in contexts)
    request = AssociateRequest.from_body(body)
    judge = negotiator()
    assert calls(lambda: judge.negotiate(request)) < 128 * a_context + 4000
    assert calls(lambda: judge.judge_unanswered(request)) < 128 * a_context + 4000


@pytest.mark.parametrize(
    "sub_items",
    [
        item(0x30, b"1.2.3") + item(0x40, b"") * 16000,
        item(0x30, b"1.2.3") + item(0x77, b"") * 16000,
        item(0x77, b"") * 16000 + item(0x30, CT.encode()),
        item(0x40, b"") * 16000 + item(0x30, b"1.2.3"),
    ],
)
def test_contexts_without_valid_syntaxes_take_no_longer_than_others(sub_items: bytes) -> None:
    contexts = (item(0x20, bytes((number, 0, 0, 0)) + sub_items) for number in range(1, 256, 2))
    request = AssociateRequest.from_body(bytes(68) + b"".join(contexts))
    judge = negotiator()
    assert not judge.negotiate(request).contexts
    assert calls(lambda: negotiator().negotiate(request)) < 128 * 2000
    assert calls(lambda: judge.judge_unanswered(request)) < 128 * 2000


def test_128_contexts_are_accepted() -> None:
    body = encoded([(CT, [EXPLICIT])] * 128)
    assert len(negotiator().negotiate(AssociateRequest.from_body(body)).contexts) == 128
