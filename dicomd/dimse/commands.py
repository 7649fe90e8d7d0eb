"""Command Sets (PS3.7 §6.3, Annex E): implicit VR little endian, group 0000, at most 64 KiB.

The rule it keeps: a request is parsed whole before anything is done for it; what makes a request unanswerable raises
`CommandSetError` (the Association is aborted), what is answerable but wrong is left to the services.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from dicomd.dimse.statuses import Status
from dicomd.uids import MAX_UID_LENGTH

MAX_COMMAND_SET = 64 * 1024
"""Bytes: a Command Set is a few hundred bytes, only lists of Attribute Identifiers could make it longer."""
NO_DATA_SET = 0x0101
"""Command Data Set Type (0000,0800) of a message without a Data Set (PS3.7 §E.1)."""

_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_LONGEST_UID = MAX_UID_LENGTH + 2  # with padding
_RESPONSE = struct.Struct("<" + 4 * "HHIH")  # what every response has: four elements of VR US
_GROUP_LENGTH = struct.Struct("<HHII")
_RESPONSE_FLAG = 0x8000


class CommandField(IntEnum):
    """Command Field (0000,0100) of the requests that dicomd tells apart (PS3.7 §E.1)."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF


class Element(IntEnum):
    """Element numbers of group 0000 (PS3.7 §E.1)."""

    COMMAND_GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000


class CommandSetError(ValueError):
    """The bytes are no Command Set that could be answered."""


class CommandSet(NamedTuple):
    """A request's Command Set: the few numbers that every one has, and all element values by element number."""

    command_field: int
    message_id: int
    has_data_set: bool
    elements: dict[int, bytes]

    @property
    def is_response(self) -> bool:
        """Whether it is a response, which a Storage SCP never has any use for."""
        return bool(self.command_field & _RESPONSE_FLAG)

    def value(self, element: Element) -> bytes:
        """The element's value as sent, empty where it is missing."""
        return self.elements.get(element, b"")


@dataclass(frozen=True, slots=True)
class Response:
    """How a request is answered. `comment` has at most 64 characters and nothing of the patient's."""

    status: Status
    comment: str = ""
    offending_elements: tuple[int, ...] = ()
    """Tags (group << 16 | element) for Offending Element (0000,0901)."""


SUCCESS = Response(Status.SUCCESS)


def parse_command_set(data: bytes | bytearray) -> CommandSet:
    """Parse a whole Command Set.

    Raises `CommandSetError` where lengths don't fit, an element is of another group or comes twice, or one of Command
    Field, Message ID and Command Data Set Type is missing or has no two bytes: without these no answer is possible.
    """
    data = bytes(data)
    elements: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        if at + 8 > end:
            raise CommandSetError("an element is cut short")
        group, number, length = _ELEMENT.unpack_from(data, at)
        at += 8 + length
        if group:
            raise CommandSetError(f"element of group {group:04X} in a Command Set")
        if at > end:
            raise CommandSetError(f"(0000,{number:04X}) is longer than the Command Set")
        if number in elements:
            raise CommandSetError(f"(0000,{number:04X}) comes twice")
        elements[number] = data[at - length : at]
    command_field = _us(elements, Element.COMMAND_FIELD)
    answers = command_field & _RESPONSE_FLAG or command_field == CommandField.C_CANCEL_RQ
    message_id = _us(elements, Element.MESSAGE_ID_BEING_RESPONDED_TO if answers else Element.MESSAGE_ID)
    return CommandSet(command_field, message_id, _us(elements, Element.COMMAND_DATA_SET_TYPE) != NO_DATA_SET, elements)


def _us(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise CommandSetError(f"(0000,{element:04X}) is missing or not of two bytes")
    return value[0] | value[1] << 8


def encode_response(request: CommandSet, response: Response) -> bytes:
    """The Command Set of the response to `request` (PS3.7 §9.3.1.2, §9.3.5.2), which never has a Data Set.

    UIDs are repeated as they came, unless they are too long to be any: no request makes a response long.
    """
    elements = request.elements
    sop_class = elements.get(Element.AFFECTED_SOP_CLASS_UID) or elements.get(Element.REQUESTED_SOP_CLASS_UID)
    body = _RESPONSE.pack(
        *(0, Element.COMMAND_FIELD, 2, request.command_field | _RESPONSE_FLAG),
        *(0, Element.MESSAGE_ID_BEING_RESPONDED_TO, 2, request.message_id),
        *(0, Element.COMMAND_DATA_SET_TYPE, 2, NO_DATA_SET),
        *(0, Element.STATUS, 2, response.status),
    )
    if sop_class and len(sop_class) <= _LONGEST_UID:
        body = _element(Element.AFFECTED_SOP_CLASS_UID, sop_class) + body
    if response.offending_elements:
        tags = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in response.offending_elements)
        body += _element(Element.OFFENDING_ELEMENT, tags)
    if response.comment:
        comment = response.comment.encode("ascii", "replace")[:64]
        body += _element(Element.ERROR_COMMENT, comment + b" " * (len(comment) % 2))
    instance = elements.get(Element.AFFECTED_SOP_INSTANCE_UID)
    if instance and len(instance) <= _LONGEST_UID:
        body += _element(Element.AFFECTED_SOP_INSTANCE_UID, instance)
    return _GROUP_LENGTH.pack(0, Element.COMMAND_GROUP_LENGTH, 4, len(body)) + body


def _element(number: int, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0"
    return _ELEMENT.pack(0, number, len(value)) + value
