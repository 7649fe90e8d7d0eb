"""Parses the bytes of a recorded connection into the conversation of two DICOM peers.

Invariant: nothing here comes from dicomd, so that the tests can't share a mistake of its readers. Lengths are trusted,
since only conversations that both sides accepted as valid are read; anything that doesn't fit raises `WireError` and
is never mistaken for an empty result.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = 0x04, 0x05, 0x06, 0x07
"""PDU types (PS3.8 §9.3.1)."""

C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030
"""Command Field (0000,0100), PS3.7 §E.1."""

AFFECTED_SOP_CLASS_UID = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
COMMAND_DATA_SET_TYPE = 0x0800
STATUS = 0x0900
OFFENDING_ELEMENT = 0x0901
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
"""Element numbers of group 0000 (PS3.7 §E.1)."""


class WireError(ValueError):
    """The bytes are not a conversation between two DICOM peers."""


@dataclass(frozen=True)
class PDU:
    """A Protocol Data Unit: its type and the bytes after its header (PS3.8 §9.3)."""

    type: int
    body: bytes


@dataclass(frozen=True)
class PDV:
    """A Presentation Data Value (PS3.8 §9.3.5.1)."""

    context_id: int
    is_command: bool
    is_last: bool
    data: bytes


@dataclass(frozen=True)
class Message:
    """A DIMSE message: its Command Set by element number, and the bytes of its Data Set or None."""

    context_id: int
    command: dict[int, bytes]
    data_set: bytes | None

    @property
    def command_field(self) -> int:
        return us(self.command[COMMAND_FIELD])

    @property
    def answered_id(self) -> int:
        """Message ID Being Responded To."""
        return us(self.command[MESSAGE_ID_BEING_RESPONDED_TO])

    @property
    def status(self) -> int:
        return us(self.command[STATUS])

    @property
    def error_comment(self) -> str:
        return self.command.get(ERROR_COMMENT, b"").rstrip(b" \0").decode("ascii")

    @property
    def offending_elements(self) -> list[int]:
        """The Offending Elements as tags, with group and element in one number."""
        value = self.command.get(OFFENDING_ELEMENT, b"")
        return [group << 16 | element for group, element in struct.iter_unpack("<HH", value)]

    @property
    def sop_class_uid(self) -> str:
        return uid(self.command.get(AFFECTED_SOP_CLASS_UID, b""))

    @property
    def sop_instance_uid(self) -> str:
        return uid(self.command.get(AFFECTED_SOP_INSTANCE_UID, b""))


@dataclass(frozen=True)
class ContextResult:
    """The result for a proposed Presentation Context (PS3.8 §9.3.3.2): 0 for accepted, else Table 9-18's reason."""

    result: int
    transfer_syntax: str


@dataclass
class Conversation:
    """An Association as seen on the wire."""

    called_ae_title: str = ""
    contexts: dict[int, ContextResult] = field(default_factory=dict)
    abstract_syntaxes: dict[int, str] = field(default_factory=dict)
    requests: list[Message] = field(default_factory=list)
    responses: list[Message] = field(default_factory=list)
    requestor_pdus: list[PDU] = field(default_factory=list)
    acceptor_pdus: list[PDU] = field(default_factory=list)

    @property
    def stores(self) -> list[Message]:
        """The C-STORE requests, in order."""
        return [message for message in self.requests if message.command_field == C_STORE_RQ]

    def transfer_syntax(self, message: Message) -> str:
        """The negotiated Transfer Syntax of a message."""
        return self.contexts[message.context_id].transfer_syntax


def conversation(requestor: bytes, acceptor: bytes) -> Conversation:
    """Parse what the requestor and the acceptor sent. Raises `WireError`, also for a truncated PDU at the end."""
    talk = Conversation(requestor_pdus=list(pdus(requestor)), acceptor_pdus=list(pdus(acceptor)))
    for pdu in talk.requestor_pdus:
        if pdu.type == A_ASSOCIATE_RQ:
            talk.called_ae_title = pdu.body[4:20].decode("ascii").strip()
            talk.abstract_syntaxes = proposed_contexts(pdu.body)
    for pdu in talk.acceptor_pdus:
        if pdu.type == A_ASSOCIATE_AC:
            talk.contexts = accepted_contexts(pdu.body)
    talk.requests = list(messages(talk.requestor_pdus))
    talk.responses = list(messages(talk.acceptor_pdus))
    return talk


def pdus(stream: bytes) -> Iterator[PDU]:
    """The PDUs of one direction of a connection."""
    at = 0
    while at < len(stream):
        if at + 6 > len(stream):
            raise WireError("a PDU header is truncated")
        pdu_type, length = struct.unpack_from(">BxI", stream, at)
        at += 6
        if at + length > len(stream):
            raise WireError(f"PDU {pdu_type:02X}H is truncated")
        yield PDU(pdu_type, stream[at : at + length])
        at += length


def pdvs(body: bytes) -> Iterator[PDV]:
    """The PDVs of a P-DATA-TF's body."""
    at = 0
    while at < len(body):
        length, context_id, header = struct.unpack_from(">IBB", body, at)
        if at + 4 + length > len(body):
            raise WireError("a PDV is longer than its PDU")
        yield PDV(context_id, bool(header & 1), bool(header & 2), body[at + 6 : at + 4 + length])
        at += 4 + length


def messages(stream: list[PDU]) -> Iterator[Message]:
    """The complete DIMSE messages of one direction; an incomplete one at the end is left out."""
    command, data = bytearray(), bytearray()
    complete: dict[int, bytes] | None = None
    for pdu in stream:
        if pdu.type != P_DATA_TF:
            continue
        for pdv in pdvs(pdu.body):
            if pdv.is_command:
                command += pdv.data
                if not pdv.is_last:
                    continue
                complete = command_set(bytes(command))
                command.clear()
                if us(complete[COMMAND_DATA_SET_TYPE]) == 0x0101:
                    yield Message(pdv.context_id, complete, None)
                    complete = None
                continue
            if complete is None:
                raise WireError("a Data Set without a Command Set")
            data += pdv.data
            if pdv.is_last:
                yield Message(pdv.context_id, complete, bytes(data))
                complete = None
                data.clear()


def command_set(encoded: bytes) -> dict[int, bytes]:
    """The elements of a Command Set: implicit VR little endian, group 0000 (PS3.7 §6.3.1)."""
    elements = {}
    at = 0
    while at < len(encoded):
        group, element, length = struct.unpack_from("<HHI", encoded, at)
        if group:
            raise WireError(f"group {group:04X} in a Command Set")
        at += 8
        if at + length > len(encoded):
            raise WireError("a Command Set is truncated")
        elements[element] = encoded[at : at + length]
        at += length
    return elements


def us(value: bytes) -> int:
    """The number in a value of VR US."""
    number: int = struct.unpack("<H", value)[0]
    return number


def uid(value: bytes) -> str:
    """The text of a value of VR UI, without its padding."""
    return value.rstrip(b"\0 ").decode("ascii")


def items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Items or sub-items of an A-ASSOCIATE PDU: (type, value)."""
    at = 0
    while at < len(encoded):
        kind, length = struct.unpack_from(">BxH", encoded, at)
        if at + 4 + length > len(encoded):
            raise WireError(f"item {kind:02X}H is truncated")
        yield kind, encoded[at + 4 : at + 4 + length]
        at += 4 + length


def user_information(associate_body: bytes) -> dict[int, list[bytes]]:
    """The User Information sub-items of an A-ASSOCIATE-RQ or -AC, by type (PS3.7 Annex D)."""
    found: dict[int, list[bytes]] = {}
    for kind, value in items(associate_body[68:]):
        if kind == 0x50:
            for sub_kind, sub_value in items(value):
                found.setdefault(sub_kind, []).append(sub_value)
    return found


def proposed_contexts(associate_rq_body: bytes) -> dict[int, str]:
    """Abstract Syntax by Presentation Context ID."""
    found = {}
    for kind, value in items(associate_rq_body[68:]):
        if kind == 0x20:
            abstract = next(sub for sub_kind, sub in items(value[4:]) if sub_kind == 0x30)
            found[value[0]] = uid(abstract)
    return found


def accepted_contexts(associate_ac_body: bytes) -> dict[int, ContextResult]:
    """Result and Transfer Syntax by Presentation Context ID; the Transfer Syntax is significant only if accepted."""
    found = {}
    for kind, value in items(associate_ac_body[68:]):
        if kind == 0x21:
            syntaxes = [uid(sub) for sub_kind, sub in items(value[4:]) if sub_kind == 0x40]
            found[value[0]] = ContextResult(value[2], syntaxes[0] if syntaxes else "")
    return found
