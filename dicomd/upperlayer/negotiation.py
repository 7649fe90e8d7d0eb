"""From an A-ASSOCIATE-RQ to its answer (PS3.8 §9.3.2, §9.3.3; PS3.7 Annex D), on pynetdicom's codecs.

The rule it keeps: a cached answer is byte for byte the answer that would be computed again. Decoding 128 proposed
Presentation Contexts costs 20 ms, so answers are kept by the request's variable items; the AE Titles, which are fixed
fields, are judged and echoed anew for every Association.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import pydicom.config
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from dicomd.uids import APPLICATION_CONTEXT_NAME, MAX_UID_LENGTH, VERIFICATION_SOP_CLASS
from dicomd.upperlayer.items import (
    ABSTRACT_SYNTAX,
    APPLICATION_CONTEXT,
    PRESENTATION_CONTEXT,
    TRANSFER_SYNTAX,
    USER_INFORMATION,
    MalformedRequestError,
    walk,
)
from dicomd.upperlayer.lru import BoundedCache
from dicomd.upperlayer.pdus import PDUType
from dicomd.upperlayer.proposals import UNCOMPRESSED, ProposedContext, judged

_IMPLEMENTATION_CLASS_UID, _ROLE_SELECTION, _IMPLEMENTATION_VERSION_NAME = 0x52, 0x54, 0x55
_EXTENDED_NEGOTIATION, _COMMON_EXTENDED_NEGOTIATION, _USER_IDENTITY = 0x56, 0x57, 0x58
_KNOWN_SUB_ITEMS = frozenset((0x51, 0x52, 0x53, 0x54, 0x55, _EXTENDED_NEGOTIATION, _COMMON_EXTENDED_NEGOTIATION))
_UNCACHEABLE = frozenset((_EXTENDED_NEGOTIATION, _COMMON_EXTENDED_NEGOTIATION, _USER_IDENTITY))

_FIXED = 68  # protocol version, reserved, AE Titles, reserved: what precedes the variable items

STORAGE_APPLICATION_INFORMATION = bytes((2, 0, 3, 0, 0, 0))
"""PS3.4 Table B.3-2: storage level 2 (full), digital signature level 3 (bit preserving), no coercion of elements."""

MAX_CONTEXTS = 128
"""Presentation Context IDs are the odd numbers from 1 to 255 (PS3.8 §9.3.2.2)."""
MAX_TRANSFER_SYNTAXES = 128
"""In one Presentation Context; there are about 60 in PS3.6, and decoding more than some hundred takes long."""
MAX_SUB_ITEMS = 1024
"""User Information sub-items; a role selection for each of 128 contexts and a few others are normal."""


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A Presentation Context both sides agreed on (PS3.8 §7.1.1.13)."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class RefusedContext:
    """A proposed Presentation Context and why it was refused; `result` is 1, 3 or 4 of PS3.8 Table 9-18."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    result: int


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What an A-ASSOCIATE-RQ led to. `max_pdu` is the peer's limit in bytes, 0 for none."""

    application_context_name: str
    contexts: dict[int, AcceptedContext]
    refused: tuple[RefusedContext, ...]
    max_pdu: int
    implementation_class_uid: str
    implementation_version_name: str
    answer: bytes
    """The variable items of the A-ASSOCIATE-AC."""


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """The fixed fields of an A-ASSOCIATE-RQ, AE Titles without their padding, and its undecoded variable items."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    variable_items: bytes
    echoed: bytes
    """The 64 bytes that an A-ASSOCIATE-AC repeats unchanged (PS3.8 Table 9-17)."""

    @classmethod
    def from_body(cls, body: bytes) -> AssociateRequest:
        """Read the fixed fields from the PDU's body, the bytes behind its header. Raises `MalformedRequestError`."""
        if len(body) < _FIXED:
            raise MalformedRequestError("A-ASSOCIATE-RQ is cut short")
        return cls(
            protocol_version=int.from_bytes(body[:2], "big"),
            # Latin-1 keeps whatever was sent for the log; whether it is an AE Title is judged at admission.
            called_ae_title=body[4:20].decode("latin-1").strip(" \0"),
            calling_ae_title=body[20:36].decode("latin-1").strip(" \0"),
            variable_items=body[_FIXED:],
            echoed=body[4:_FIXED],
        )


def quiet_decoders() -> None:
    """Have pydicom and pynetdicom say nothing of what peers sent, in the whole process: it is told here once.

    pydicom would warn of each UID that breaks its rules, with its text, and Python keeps every such text for ever:
    memory that peers could fill. pynetdicom logs an error, at times with a traceback, for each value that it can't
    decode: a log that peers could fill.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def associate_ac(request: AssociateRequest, negotiated: Negotiated) -> bytes:
    """The A-ASSOCIATE-AC PDU that answers `request` (PS3.8 §9.3.3)."""
    length = _FIXED + len(negotiated.answer)
    return struct.pack(">BBIHH", PDUType.A_ASSOCIATE_AC, 0, length, 1, 0) + request.echoed + negotiated.answer


class Negotiator:
    """Judges proposed Presentation Contexts and User Information against what this receiver supports.

    `sop_classes` None takes every abstract syntax; `transfer_syntaxes` are in order of preference; `max_pdu` is the
    length in bytes to advertise. Safe to use from many threads.
    """

    def __init__(
        self,
        *,
        sop_classes: Iterable[str] | None,
        transfer_syntaxes: Iterable[str],
        max_pdu: int,
        implementation_class_uid: str,
        implementation_version_name: str,
    ) -> None:
        self._sop_classes = None if sop_classes is None else frozenset(sop_classes)
        self._transfer_syntaxes = list(transfer_syntaxes)
        maximum_length = MaximumLengthNotification()
        maximum_length.maximum_length_received = max_pdu
        class_uid = ImplementationClassUIDNotification()
        class_uid.implementation_class_uid = implementation_class_uid
        version_name = ImplementationVersionNameNotification()
        version_name.implementation_version_name = implementation_version_name
        self._user_information = [maximum_length, class_uid, version_name]
        self._cache: BoundedCache[Negotiated] = BoundedCache(entries=256, size=8 * 1024 * 1024)

    def negotiate(self, request: AssociateRequest) -> Negotiated:
        """Return the outcome for `request`, from the cache where it has been computed before.

        Raises `MalformedRequestError`.
        """
        key = request.variable_items
        if (known := self._cache.get(key)) is not None:
            return known
        items, cacheable = _recognised_items(key)
        negotiated = self._compute(items)
        if cacheable:
            size = 3 * len(key) + len(negotiated.answer) + 512 * len(negotiated.contexts)
            self._cache.put(key, negotiated, size=size)
        return negotiated

    def judge_unanswered(self, request: AssociateRequest) -> list[ProposedContext]:
        """What would have become of the contexts of a request that was rejected, without negotiating."""
        return judged(request.variable_items, self._sop_classes, self._transfer_syntaxes)

    def _compute(self, items: bytes) -> Negotiated:
        proposal = _decode(items)
        roles: dict[str, tuple[bool, bool]] = {}
        extended: list[SOPClassExtendedNegotiation] = []
        reply = list[object](self._user_information)
        max_pdu, class_uid, version_name = 0, "", ""
        for item in proposal.user_information:
            match item:
                case MaximumLengthNotification():
                    max_pdu = item.maximum_length_received or 0
                case ImplementationClassUIDNotification():
                    class_uid = str(item.implementation_class_uid or "")
                case ImplementationVersionNameNotification():
                    version_name = item.implementation_version_name or ""
                case SCP_SCU_RoleSelectionNegotiation():
                    roles[str(item.sop_class_uid)] = (bool(item.scu_role), bool(item.scp_role))
                case AsynchronousOperationsWindowNegotiation():
                    reply.append(_synchronous())
                case SOPClassExtendedNegotiation():
                    extended.append(item)
                case _:
                    pass  # nothing else asks for an answer
        proposed = proposal.presentation_context_definition_list
        results, role_replies = negotiate_as_acceptor(proposed, self._supported(proposed), roles)  # type: ignore[arg-type]
        contexts = {
            int(c.context_id or 0): AcceptedContext(str(c.abstract_syntax), str(c.transfer_syntax[0]))
            for c in results
            if c.result == 0
        }
        reply += role_replies
        reply += _extended_replies(extended, {c.abstract_syntax for c in contexts.values()})
        by_id = {c.context_id: c for c in proposed}
        refused = tuple(
            RefusedContext(
                int(c.context_id or 0),
                str(c.abstract_syntax),
                tuple(str(t) for t in by_id[c.context_id].transfer_syntax),
                int(c.result or 0),
            )
            for c in results
            if c.result != 0
        )
        return Negotiated(
            application_context_name=str(proposal.application_context_name or ""),
            contexts=contexts,
            refused=refused,
            max_pdu=max_pdu,
            implementation_class_uid=class_uid,
            implementation_version_name=version_name,
            answer=_encode_answer(results, reply),
        )

    def _supported(self, proposed: list[PresentationContext]) -> list[PresentationContext]:
        """The supported contexts among the proposed abstract syntaxes: only these, since building all is slow."""
        supported = []
        for abstract_syntax in {str(c.abstract_syntax) for c in proposed}:
            if abstract_syntax == VERIFICATION_SOP_CLASS:
                # C-ECHO has no Data Set, so the order of preference for stored instances has no say here.
                context = build_context(abstract_syntax, list(UNCOMPRESSED))
            elif self._sop_classes is None or abstract_syntax in self._sop_classes:
                context = build_context(abstract_syntax, self._transfer_syntaxes)
            else:
                continue
            context.scu_role, context.scp_role = True, False  # the requestor may be SCU, and no SCP
            supported.append(context)
        return supported


def _decode(items: bytes) -> A_ASSOCIATE:
    # AE Titles have been read already and must not fail the decoding: any will do here.
    fixed = b"\0\1\0\0" + b"DICOMD".ljust(16) * 2 + bytes(32)
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(struct.pack(">BBI", PDUType.A_ASSOCIATE_RQ, 0, len(fixed) + len(items)) + fixed + items)
        proposal = pdu.to_primitive()
        contexts = proposal.presentation_context_definition_list
        identifiers = {c.context_id for c in contexts}
        complete = all(c.abstract_syntax and c.transfer_syntax for c in contexts)
    except Exception as error:  # pynetdicom's decoders raise whatever the bytes make them trip over
        raise MalformedRequestError(f"A-ASSOCIATE-RQ can't be decoded: {type(error).__name__}") from error
    if not complete:
        raise MalformedRequestError("a Presentation Context without abstract or transfer syntax")
    if len(identifiers) != len(contexts):
        raise MalformedRequestError("two Presentation Contexts have the same ID")
    return proposal


def _encode_answer(results: list[PresentationContext], user_information: list[object]) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT_NAME
    primitive.calling_ae_title = primitive.called_ae_title = "DICOMD"
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = results
    primitive.user_information = user_information  # type: ignore[assignment]
    return A_ASSOCIATE_AC(primitive).encode()[6 + _FIXED :]


def _synchronous() -> AsynchronousOperationsWindowNegotiation:
    """One operation at a time (PS3.7 §D.3.3.3)."""
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 1
    return window


def _extended_replies(
    offered: list[SOPClassExtendedNegotiation], accepted: set[str]
) -> list[SOPClassExtendedNegotiation]:
    """Tell who asks how instances are stored (PS3.4 §B.3.1)."""
    replies = {}
    for item in offered:
        uid = str(item.sop_class_uid)
        if uid in accepted and uid != VERIFICATION_SOP_CLASS:
            reply = SOPClassExtendedNegotiation()
            reply.sop_class_uid = uid
            reply.service_class_application_information = STORAGE_APPLICATION_INFORMATION
            replies[uid] = reply
    return list(replies.values())


def _recognised_items(items: bytes) -> tuple[bytes, bool]:
    """Return the items that an acceptor understands, and whether the answer depends on nothing else.

    Unrecognised items are skipped (PS3.8 §9.3.1); a User Identity is left out, since it is ignored and no answer to it
    is due (PS3.7 §D.3.3.7.1). Raises `MalformedRequestError` where lengths don't fit, a UID is too long to be one, or
    counts are beyond reason: all of it before the decoders, which are slow and keep what they stumble over.
    """
    kept, cacheable, contexts = bytearray(), True, 0
    for item_type, item in walk(items):
        if item_type == USER_INFORMATION:
            sub_items, sub_items_cacheable = _recognised_sub_items(item[4:])
            cacheable = cacheable and sub_items_cacheable
            kept += struct.pack(">BBH", USER_INFORMATION, 0, len(sub_items)) + sub_items
        elif item_type == PRESENTATION_CONTEXT:
            contexts += 1
            if contexts > MAX_CONTEXTS:
                raise MalformedRequestError(f"more than {MAX_CONTEXTS} Presentation Contexts", "presentation_contexts")
            _check_presentation_context(item)
            kept += item
        elif item_type == APPLICATION_CONTEXT:
            _check_uid_length(len(item) - 4)
            kept += item
    return bytes(kept), cacheable


def _check_presentation_context(item: bytes) -> None:
    """PS3.8 §9.3.2.2: four bytes, then the abstract syntax and the transfer syntaxes."""
    transfer_syntaxes = 0
    for item_type, sub_item in walk(item[8:]):
        if item_type not in (ABSTRACT_SYNTAX, TRANSFER_SYNTAX):
            raise MalformedRequestError(f"item {item_type:02X}H inside a Presentation Context")
        _check_uid_length(len(sub_item) - 4)
        transfer_syntaxes += item_type == TRANSFER_SYNTAX
    if transfer_syntaxes > MAX_TRANSFER_SYNTAXES:
        message = f"more than {MAX_TRANSFER_SYNTAXES} transfer syntaxes in a Presentation Context"
        raise MalformedRequestError(message, "transfer_syntaxes")


def _recognised_sub_items(items: bytes) -> tuple[bytes, bool]:
    kept, cacheable = bytearray(), True
    for count, (item_type, item) in enumerate(walk(items)):
        if count >= MAX_SUB_ITEMS:
            raise MalformedRequestError(f"more than {MAX_SUB_ITEMS} User Information sub-items", "user_information")
        cacheable = cacheable and item_type not in _UNCACHEABLE
        if item_type == _IMPLEMENTATION_CLASS_UID:
            _check_uid_length(len(item) - 4)
        elif item_type in (_ROLE_SELECTION, _EXTENDED_NEGOTIATION, _COMMON_EXTENDED_NEGOTIATION):
            _check_uid_length(int.from_bytes(item[4:6], "big"))
        if item_type == _IMPLEMENTATION_VERSION_NAME and not item[4:].isascii():
            continue  # it only informs: no reason to refuse whoever writes an umlaut there
        if item_type in _KNOWN_SUB_ITEMS:
            kept += item
    return bytes(kept), cacheable


def _check_uid_length(length: int) -> None:
    if length > MAX_UID_LENGTH + 1:  # and one byte of padding, which has no place here but is sent
        raise MalformedRequestError(f"a UID of {length} bytes, {MAX_UID_LENGTH} at most", "uid_length")
