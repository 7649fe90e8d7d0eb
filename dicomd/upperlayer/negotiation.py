"""Makes the answer to an A-ASSOCIATE-RQ (PS3.8 §9.3.2, §9.3.3; PS3.7 Annex D).

Invariants: an answer is byte for byte what pynetdicom's codecs would make of the request, which take more than thirty
times as long (`tests/property/test_negotiation.py`); and a cached result equals a computed one. There are two caches:
of whole outcomes, by the variable items of the request, since most requestors always send the same; and of the results
for the Presentation Contexts, for those that vary the rest, such as a token in their User Identity.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import pydicom.config

from dicomd.ae_titles import received_ae_title
from dicomd.context_results import ACCEPTANCE, USER_REJECTION
from dicomd.uids import APPLICATION_CONTEXT_NAME, VERIFICATION_SOP_CLASS
from dicomd.upperlayer.contexts import (
    ContextJudge,
    JudgedContext,
)
from dicomd.upperlayer.items import (
    APPLICATION_CONTEXT,
    PRESENTATION_CONTEXT_RESULT,
    TRANSFER_SYNTAX,
    USER_INFORMATION,
    MalformedRequestError,
    encoded,
)
from dicomd.upperlayer.lru import BoundedCache
from dicomd.upperlayer.pdus import PDUType
from dicomd.upperlayer.proposals import (
    MAX_SHOWN,
    ContextIDError,
    ProposedContext,
    RefusedContext,
    UserInformation,
    read_proposal,
    refused_context,
    shown_context,
)

_FIXED = 68  # protocol version, reserved, AE Titles, reserved: what precedes the variable items
_APPLICATION_CONTEXT_ITEM = encoded(APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode())
_CACHED = 1024 * 1024  # bytes of each cache; enough for 40 requests of 128 contexts
_DIGEST = 32  # bytes: so many that no requestor finds two requests with the same digest
_OF_A_CONTEXT = 160  # bytes of memory for the result of one

STORAGE_APPLICATION_INFORMATION = bytes((2, 0, 3, 0, 0, 0))
"""PS3.4 Table B.3-2: storage level 2 (full), digital signature level 3 (bit preserving), no coercion of elements."""


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A Presentation Context both sides agreed on (PS3.8 §7.1.1.13)."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The outcome of an A-ASSOCIATE-RQ. `max_pdu` is the peer's limit in bytes, 0 for none."""

    application_context_name: str
    contexts: Mapping[int, AcceptedContext]
    kept: tuple[RefusedContext, ...]
    """The first `MAX_SHOWN` refused contexts, so that the memory of an open Association is bounded."""
    proposed: int
    max_pdu: int
    operations_invoked: int
    """How many operations the requestor may have outstanding; 1 if it proposed no window."""
    implementation_class_uid: str
    implementation_version_name: str
    skipped: tuple[str, ...]
    """Up to `MAX_SHOWN` items that can't be read, each with what is wrong with it."""
    answer: bytes
    """The variable items of the A-ASSOCIATE-AC."""

    @property
    def refused(self) -> tuple[ProposedContext, ...]:
        """The refused contexts that are `kept`, decoded."""
        return tuple(map(shown_context, self.kept))


class AssociateRequest(NamedTuple):
    """The fixed fields of an A-ASSOCIATE-RQ, AE Titles without their padding, and its undecoded variable items."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    variable_items: bytes
    echoed: bytes
    """The 64 bytes that an A-ASSOCIATE-AC repeats unchanged (PS3.8 Table 9-17)."""

    @classmethod
    def from_body(cls, body: bytes) -> AssociateRequest:
        """Read the fixed fields from the PDU's body, the bytes after its header. Raises `MalformedRequestError`."""
        if len(body) < _FIXED:
            raise MalformedRequestError("A-ASSOCIATE-RQ is cut short")
        return cls(
            int.from_bytes(body[:2], "big"),
            received_ae_title(body[4:20]),
            received_ae_title(body[20:36]),
            body[_FIXED:],
            body[4:_FIXED],
        )


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What a rejected request proposed, as far as it can be read.

    `contexts` are up to `MAX_SHOWN` of the `proposed` ones, refused ones first, others only if there is room left.
    `refused` counts malformed ones, too; it is None if counting ended because there were as many as can be shown.
    """

    proposed: int
    refused: int | None
    contexts: tuple[ProposedContext, ...]


def quiet_decoders() -> None:
    """Keep pydicom from warning about what peers send, in the whole process; dicomd reports it itself.

    It would warn about each invalid UID, quoting it, and Python keeps the text of every warning forever, so peers could
    fill the memory.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def associate_ac(request: AssociateRequest, negotiated: Negotiated) -> bytes:
    """Return the A-ASSOCIATE-AC PDU that answers `request` (PS3.8 §9.3.3)."""
    length = _FIXED + len(negotiated.answer)
    return struct.pack(">BBIHH", PDUType.A_ASSOCIATE_AC, 0, length, 1, 0) + request.echoed + negotiated.answer


@dataclass(frozen=True, slots=True)
class _Agreement:
    """The results for the proposed contexts, and the items of the answer that contain them."""

    contexts: dict[int, AcceptedContext]
    kept: tuple[RefusedContext, ...]
    skipped: tuple[str, ...]
    items: bytes


class Negotiator:
    """Judges proposed Presentation Contexts and User Information against what this receiver supports.

    If `sop_classes` is None, every abstract syntax is accepted; with `any_storage`, those that PS3.6 doesn't know and
    that the requestor says are of the Storage Service Class (PS3.7 §D.3.3.6). `transfer_syntaxes` are in order of
    preference; `max_pdu` is the length in bytes to advertise. A requestor that proposes an Asynchronous Operations
    Window may have `asynchronous_operations` outstanding, if it doesn't want fewer. Thread-safe.
    """

    def __init__(
        self,
        *,
        sop_classes: Iterable[str] | None,
        transfer_syntaxes: Iterable[str],
        max_pdu: int,
        implementation_class_uid: str,
        implementation_version_name: str,
        any_storage: bool = False,
        asynchronous_operations: int = 1,
    ) -> None:
        self._asynchronous_operations = asynchronous_operations
        self._judge = ContextJudge(sop_classes, transfer_syntaxes, any_storage=any_storage)
        self._user_information = (
            encoded(0x51, max_pdu.to_bytes(4, "big"))
            + encoded(0x52, implementation_class_uid.encode())
            + encoded(0x55, implementation_version_name.encode())
        )
        self._outcomes: BoundedCache[Negotiated] = BoundedCache(entries=256, size=_CACHED)
        self._agreements: BoundedCache[_Agreement] = BoundedCache(entries=256, size=_CACHED)

    def negotiate(self, request: AssociateRequest) -> Negotiated:
        """Return the outcome for `request`. Raises `MalformedRequestError`.

        Outcomes are cached, so this is only for requestors that have been let in: others could evict their entries.
        """
        key = blake2b(request.variable_items, digest_size=_DIGEST).digest()
        known = self._outcomes.get(key)
        if known is None:
            known = self._compute(request)
            self._outcomes.put(key, known, size=_size(known, known.answer))
        return known

    def judge_unanswered(self, request: AssociateRequest) -> Unanswered:
        """Return what the contexts of a rejected request would have got, disregarding roles."""
        try:
            _, proposed, user_information, _ = read_proposal(request.variable_items)
        except MalformedRequestError:
            return Unanswered(0, 0, ())  # it wasn't decoded for the answer either
        known: dict[bytes, tuple[str, str]] = {}
        accepted: list[tuple[bytes, int]] = []
        refused: list[tuple[bytes, int]] = []
        malformed = 0
        for context in proposed:
            try:
                judged = self._judge.judge(context, known, user_information.storage_classes)
            except MalformedRequestError:
                malformed += 1
                continue
            if judged.problem:
                malformed += 1
                continue
            (refused if judged.result else accepted).append((context, judged.result))
            if len(refused) == MAX_SHOWN:
                break
        shown = (refused + accepted)[:MAX_SHOWN]
        counted = len(refused) + malformed if len(refused) < MAX_SHOWN else None
        contexts = tuple(shown_context(refused_context(*context)) for context in shown)
        return Unanswered(len(proposed), counted, contexts)

    def _compute(self, request: AssociateRequest) -> Negotiated:
        name, proposed, user_information, skipped = read_proposal(request.variable_items)
        agreement = self._agree(proposed, user_information)
        window = self._window(user_information.operations_invoked)
        answer = self._user_information + self._replies(user_information, agreement, window)
        return Negotiated(
            application_context_name=name,
            contexts=agreement.contexts,
            kept=agreement.kept,
            proposed=len(proposed),
            max_pdu=user_information.max_pdu,
            operations_invoked=window or 1,
            implementation_class_uid=user_information.implementation_class_uid,
            implementation_version_name=user_information.implementation_version_name,
            skipped=(agreement.skipped + skipped)[:MAX_SHOWN],
            answer=_APPLICATION_CONTEXT_ITEM + agreement.items + encoded(USER_INFORMATION, answer),
        )

    def _agree(self, proposed: list[bytes], user_information: UserInformation) -> _Agreement:
        if user_information.roles or user_information.storage_classes:  # rare, and the result depends on them, too
            return self._judge_contexts(proposed, user_information)
        lengths = struct.pack(f">{len(proposed)}H", *map(len, proposed))
        key = blake2b(lengths + b"".join(proposed), digest_size=_DIGEST).digest()
        known = self._agreements.get(key)
        if known is None:
            known = self._judge_contexts(proposed, user_information)
            self._agreements.put(key, known, size=_size(known, known.items))
        return known

    def _judge_contexts(self, proposed: list[bytes], user_information: UserInformation) -> _Agreement:
        known: dict[bytes, tuple[str, str]] = {}
        judged: dict[int, tuple[JudgedContext, bytes]] = {}
        skipped: list[str] = []
        for sent in proposed:
            try:
                context = self._judge.judge(sent, known, user_information.storage_classes)
            except ContextIDError as error:
                skipped.append(str(error))
                continue
            number = context.context_id
            if number in judged:
                skipped.append(f"Presentation Context {number} is proposed again; only the first one counts")
                continue
            if context.problem:
                skipped.append(f"Presentation Context {number} {context.problem}")
            elif (
                context.result == ACCEPTANCE
                and not user_information.roles.get(context.abstract_syntax, (True, False))[0]
            ):
                context = context._replace(result=USER_REJECTION)  # the requestor may only be SCU, not SCP
            judged[number] = context, sent
        if skipped and not judged:
            raise MalformedRequestError(f"no Presentation Context can be answered: {skipped[0]}")
        ordered = [judged[number] for number in sorted(judged)]
        refused = [
            (sent, context.result) for context, sent in ordered if context.result != ACCEPTANCE and not context.problem
        ]
        return _Agreement(
            contexts={
                context.context_id: AcceptedContext(context.abstract_syntax, context.transfer_syntax)
                for context, _ in ordered
                if context.result == ACCEPTANCE
            },
            kept=tuple(refused_context(*one) for one in refused[:MAX_SHOWN]),
            skipped=tuple(skipped[:MAX_SHOWN]),
            items=b"".join(_result_item(context) for context, _ in ordered),
        )

    def _window(self, proposed: int | None) -> int:
        """Return how many operations to answer for the number `proposed`, 0 if none was and none is answered."""
        if proposed is None:
            return 0
        return min(proposed or self._asynchronous_operations, self._asynchronous_operations)

    def _replies(self, offered: UserInformation, agreement: _Agreement, window: int) -> bytes:
        """Encode the User Information sub-items that answer sub-items of the request."""
        replies = [_window_reply(window)] if window else []
        if offered.roles or offered.extended:
            accepted = {context.abstract_syntax for context in agreement.contexts.values()}
            replies += [_role_reply(uid) for uid in sorted(accepted.intersection(offered.roles))]
            accepted.discard(VERIFICATION_SOP_CLASS)
            replies += [_extended_reply(uid) for uid in offered.extended if uid in accepted]
        return b"".join(replies)


def _size(result: Negotiated | _Agreement, encoded_items: bytes) -> int:
    """Estimate the bytes of memory that a cached result occupies."""
    listed = len(result.contexts) + len(result.kept) + len(result.skipped)
    texts = len(encoded_items) + sum(len(each.beginning) for each in result.kept) + sum(map(len, result.skipped))
    return texts + _OF_A_CONTEXT * (2 + listed)


def _result_item(context: JudgedContext) -> bytes:
    """Encode a Presentation Context item of the answer (PS3.8 Table 9-18)."""
    transfer_syntax = encoded(TRANSFER_SYNTAX, context.transfer_syntax.encode())
    return encoded(PRESENTATION_CONTEXT_RESULT, bytes((context.context_id, 0, context.result, 0)) + transfer_syntax)


def _window_reply(operations: int) -> bytes:
    """Encode the reply that so many operations may be invoked, and one performed (PS3.7 §D.3.3.3).

    The requestor performs none, and a Storage SCP invokes none.
    """
    return encoded(0x53, struct.pack(">HH", operations, 1))


def _role_reply(sop_class_uid: str) -> bytes:
    """Encode the reply that the requestor is SCU and not SCP (PS3.7 §D.3.3.4)."""
    uid = sop_class_uid.encode()
    return encoded(0x54, struct.pack(">H", len(uid)) + uid + b"\1\0")


def _extended_reply(sop_class_uid: str) -> bytes:
    """Encode the reply that says how instances are stored (PS3.4 §B.3.1)."""
    uid = sop_class_uid.encode()
    return encoded(0x56, struct.pack(">H", len(uid)) + uid + STORAGE_APPLICATION_INFORMATION)
