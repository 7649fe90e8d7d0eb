"""Answers an A-ASSOCIATE-RQ with pynetdicom's codecs and negotiation, as a reference for dicomd's own.

dicomd reads requests itself because pynetdicom's codecs take 20 ms and more for a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

from tests.support import wire
from tests.support.encoding import pdu as encoded_pdu

_FIXED = b"\0\1\0\0" + b"DICOMD".ljust(16) * 2 + bytes(32)
_VERIFICATION = "1.2.840.10008.1.1"
_UNCOMPRESSED = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]
_APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"


class UndecodableError(Exception):
    """pynetdicom raised an exception, or would answer something that is not a valid request."""


@dataclass(frozen=True)
class Reference:
    """pynetdicom's reading of a request: contexts by ID as (abstract syntax, transfer syntax), results by ID."""

    application_context_name: str
    contexts: dict[int, tuple[str, str]]
    results: dict[int, int]
    max_pdu: int
    implementation_class_uid: str
    implementation_version_name: str
    answer: bytes


def reference(
    variable_items: bytes,
    *,
    sop_classes: Sequence[str],
    transfer_syntaxes: Sequence[str],
    max_pdu: int,
    implementation_class_uid: str,
    implementation_version_name: str,
    asynchronous_operations: int = 1,
) -> Reference:
    """Negotiate as an acceptor that supports these. Raises UndecodableError."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(encoded_pdu(wire.A_ASSOCIATE_RQ, _FIXED + variable_items))
        proposal = pdu.to_primitive()
    except Exception as error:  # its decoders can raise anything for malformed bytes
        raise UndecodableError(repr(error)) from error
    proposed = proposal.presentation_context_definition_list
    if not all(context.abstract_syntax and context.transfer_syntax for context in proposed):
        raise UndecodableError("a Presentation Context without abstract or transfer syntax")
    if len({context.context_id for context in proposed}) != len(proposed):
        raise UndecodableError("two Presentation Contexts have the same ID")
    supported = []
    for uid in {str(context.abstract_syntax) for context in proposed} & {*sop_classes, _VERIFICATION}:
        context = build_context(uid, list(_UNCOMPRESSED if uid == _VERIFICATION else transfer_syntaxes))
        context.scu_role, context.scp_role = True, False
        supported.append(context)
    offered = proposal.user_information
    roles: dict[str, tuple[bool, bool]] = {
        str(item.sop_class_uid): (bool(item.scu_role), bool(item.scp_role))
        for item in offered
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    results, role_replies = negotiate_as_acceptor(proposed, supported, roles)  # type: ignore[arg-type]
    contexts = {
        int(context.context_id or 0): (str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in results
        if context.result == 0
    }
    reply = _about(max_pdu, implementation_class_uid, implementation_version_name)
    for item in [item for item in offered if isinstance(item, AsynchronousOperationsWindowNegotiation)][-1:]:
        invoked = int(item.maximum_number_operations_invoked or 0) or asynchronous_operations
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = min(invoked, asynchronous_operations)
        window.maximum_number_operations_performed = 1
        reply.append(window)
    reply += role_replies
    reply += _extended_replies(offered, {abstract for abstract, _ in contexts.values()})
    last: dict[type, object] = {type(item): item for item in offered}
    length, class_uid = last.get(MaximumLengthNotification), last.get(ImplementationClassUIDNotification)
    version_name = last.get(ImplementationVersionNameNotification)
    return Reference(
        application_context_name=str(proposal.application_context_name or ""),
        contexts=contexts,
        results={int(context.context_id or 0): int(context.result or 0) for context in results},
        max_pdu=length.maximum_length_received if isinstance(length, MaximumLengthNotification) else 0,
        implementation_class_uid=str(getattr(class_uid, "implementation_class_uid", "") or ""),
        implementation_version_name=str(getattr(version_name, "implementation_version_name", "") or "").rstrip("\0 "),
        answer=_encoded(sorted(results, key=lambda context: int(context.context_id or 0)), reply),
    )


def _about(max_pdu: int, class_uid: str, version_name: str) -> list[object]:
    length, implementation, version = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = max_pdu
    implementation.implementation_class_uid, version.implementation_version_name = class_uid, version_name
    return [length, implementation, version]


def _extended_replies(offered: Sequence[object], accepted: set[str]) -> list[object]:
    replies: dict[str, object] = {}
    for item in offered:
        if isinstance(item, SOPClassExtendedNegotiation) and str(item.sop_class_uid) in accepted - {_VERIFICATION}:
            reply = SOPClassExtendedNegotiation()
            reply.sop_class_uid, reply.service_class_application_information = item.sop_class_uid, b"\2\0\3\0\0\0"
            replies.setdefault(str(item.sop_class_uid), reply)
    return list(replies.values())


def _encoded(results: list[PresentationContext], user_information: list[object]) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT_NAME
    primitive.calling_ae_title = primitive.called_ae_title = "DICOMD"
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = results
    primitive.user_information = user_information  # type: ignore[assignment]
    return bytes(A_ASSOCIATE_AC(primitive).encode()[6 + len(_FIXED) :])
