"""Parses and encodes Command Sets (PS3.7 §6.3, Annex E): Implicit VR Little Endian, group 0000, at most 64 KiB.

A request is parsed completely before anything is done for it. If it can't be answered at all, `CommandSetError` is
raised and the Association aborted; if it can be answered but is wrong, the services answer it with a failure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from dicomd.statuses import Status
from dicomd.uids import MAX_UID_LENGTH

MAX_COMMAND_SET = 64 * 1024
"""Bytes. A Command Set has a few hundred; only a list of Attribute Identifiers could make it longer."""
NO_DATA_SET = 0x0101
"""Command Data Set Type (0000,0800) of a message without a Data Set (PS3.7 §E.1)."""

_ELEMENT = struct.Struct("<HHI")
_GROUP_LENGTH = _ELEMENT.pack(0, 0, 4)  # the header of Command Group Length (0000,0000), always the first element
_US = struct.Struct("<H")
_LONGEST_UID = MAX_UID_LENGTH + 2  # with padding
_UL = struct.Struct("<I")
_RESPONSE_FLAG = 0x8000
_LONGEST_REMEMBERED = 1024  # bytes; a C-STORE-RQ has some 300


class CommandField(IntEnum):
    """Command Field (0000,0100) of the requests that dicomd distinguishes (PS3.7 §E.1)."""

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
    """The bytes are not a Command Set that could be answered."""


class CommandSet(NamedTuple):
    """A parsed Command Set: the few values that every one has, and all element values by element number."""

    command_field: int
    message_id: int
    has_data_set: bool
    elements: dict[int, bytes]

    @property
    def is_response(self) -> bool:
        """Whether it is a response. A Storage SCP sends no requests, so it never expects one."""
        return bool(self.command_field & _RESPONSE_FLAG)

    def value(self, element: Element) -> bytes:
        """Return the element's value as sent, empty if it is missing."""
        return self.elements.get(element, b"")


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request. `comment` has at most 64 characters and never contains patient data."""

    status: Status
    comment: str = ""
    offending_elements: tuple[int, ...] = ()
    """Tags (group << 16 | element) for Offending Element (0000,0901)."""


SUCCESS = Response(Status.SUCCESS)


def parse_command_set(data: bytes | bytearray) -> CommandSet:
    """Parse a whole Command Set.

    What is behind the end that Command Group Length (0000,0000) states, such as padding, is passed over; further
    elements in ascending order are not, since that length is wrong in some senders.

    Raises `CommandSetError` if lengths are inconsistent, if an element occurs twice or belongs to another group, or if
    Command Field, Message ID or Command Data Set Type is missing or not two bytes long: no answer is possible then.
    """
    data = bytes(data)
    elements: dict[int, bytes] = {}
    at, end = 0, len(data)
    group_end = _group_end(data)
    number = 0
    while at < end:
        if at >= group_end and not _goes_on(data, at, number):
            break
        if at + 8 > end:
            raise CommandSetError("the last element is truncated")
        group, number, length = _ELEMENT.unpack_from(data, at)
        at += 8 + length
        if group:
            raise CommandSetError(f"element of group {group:04X} in a Command Set")
        if at > end:
            raise CommandSetError(f"(0000,{number:04X}) extends beyond the end of the Command Set")
        if number in elements:
            raise CommandSetError(f"(0000,{number:04X}) occurs twice")
        elements[number] = data[at - length : at]
    command_field = _us(elements, Element.COMMAND_FIELD)
    answers = command_field & _RESPONSE_FLAG or command_field == CommandField.C_CANCEL_RQ
    message_id = _us(elements, Element.MESSAGE_ID_BEING_RESPONDED_TO if answers else Element.MESSAGE_ID)
    return CommandSet(command_field, message_id, _us(elements, Element.COMMAND_DATA_SET_TYPE) != NO_DATA_SET, elements)


def _group_end(data: bytes) -> int:
    """Return where the group ends according to Command Group Length (PS3.7 §6.3.1), else the length of `data`."""
    if not data.startswith(_GROUP_LENGTH) or len(data) < 12:
        return len(data)
    return 12 + int.from_bytes(data[8:12], "little")


def _goes_on(data: bytes, at: int, last: int) -> bool:
    """Whether another element of the group is at `at`, after the one with the number `last`."""
    if at + 8 > len(data):
        return False
    group, number, length = _ELEMENT.unpack_from(data, at)
    return not group and number > last and at + 8 + length <= len(data)


class CommandSetParser:
    """Parses the Command Sets of one Association as `parse_command_set` does, but first compares each with the last.

    The requests of one sender differ in Message ID and Affected SOP Instance UID, and rarely in anything else. If all
    other bytes, lengths included, equal those of the last request, so do its other elements: comparing the bytes takes
    a third of the time of parsing them. A long Command Set is not kept, so that an idle Association holds little,
    whatever its peer has sent.
    """

    __slots__ = ("_around", "_last", "_length", "_message_id", "_uid")

    def __init__(self) -> None:
        self._last: CommandSet | None = None
        self._length = 0
        self._message_id = self._uid = slice(0)  # where the two values are
        self._around: tuple[slice, bytes, bytes, bytes] = (slice(0), b"", b"", b"")  # the bytes around them

    def parse(self, data: bytes) -> CommandSet:
        """Parse a whole Command Set. Raises `CommandSetError`."""
        last = self._last
        place, between, before, behind = self._around
        if (
            last is None
            or len(data) != self._length
            or data[place] != between
            or not data.startswith(before)
            or not data.endswith(behind)
        ):
            request = parse_command_set(data)
            if len(data) <= _LONGEST_REMEMBERED:
                self._remember(request, data)
            return request
        message_id = data[self._message_id]
        elements = last.elements.copy()
        elements[Element.MESSAGE_ID] = message_id
        elements[Element.AFFECTED_SOP_INSTANCE_UID] = data[self._uid]
        return CommandSet(last.command_field, message_id[0] | message_id[1] << 8, last.has_data_set, elements)

    def _remember(self, request: CommandSet, data: bytes) -> None:
        at = 0
        values = {}
        for element, value in request.elements.items():  # in the order of the bytes
            at += _ELEMENT.size
            values[element] = slice(at, at + len(value))
            at += len(value)
        message_id = values.get(Element.MESSAGE_ID)
        uid = values.get(Element.AFFECTED_SOP_INSTANCE_UID)
        if request.is_response or request.command_field == CommandField.C_CANCEL_RQ:
            return  # their Message ID is another element; a (0000,0110) in them may be anything
        if message_id is None or uid is None or message_id.start > uid.start:
            return  # a C-ECHO-RQ has no SOP Instance UID, and Command Sets with elements out of order are rare
        self._last = request
        self._length = len(data)
        self._message_id = message_id
        self._uid = uid
        between = slice(message_id.stop, uid.start)
        self._around = between, data[between], data[: message_id.start], data[uid.stop :]


def _us(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise CommandSetError(f"(0000,{element:04X}) is missing or not two bytes long")
    return value[0] | value[1] << 8


def encode_response(request: CommandSet, response: Response) -> bytes:
    """Encode the Command Set of the response to `request` (PS3.7 §9.3.1.2, §9.3.5.2), which never has a Data Set.

    UIDs are repeated as received. Those too long to be valid are left out, so that no request can inflate a response.
    """
    elements = request.elements
    sop_class = elements.get(Element.AFFECTED_SOP_CLASS_UID) or elements.get(Element.REQUESTED_SOP_CLASS_UID) or b""
    instance = elements.get(Element.AFFECTED_SOP_INSTANCE_UID, b"")
    if len(sop_class) > _LONGEST_UID:
        sop_class = b""
    behind = _element(Element.AFFECTED_SOP_INSTANCE_UID, instance) if 0 < len(instance) <= _LONGEST_UID else b""
    if response.offending_elements or response.comment:
        behind = _explanation(response) + behind
    before, between = _constant_parts(sop_class, request.command_field, response.status, len(behind))
    return before + _US.pack(request.message_id) + between + behind


# The responses on one Association are all alike. The peer chooses the cached bytes, so length and number are bounded.
@lru_cache(maxsize=256)
def _constant_parts(sop_class: bytes, command_field: int, status: int, behind: int) -> tuple[bytes, bytes]:
    """Return what precedes and follows Message ID Being Responded To, if `behind` more bytes follow the Status."""
    before = _element(Element.AFFECTED_SOP_CLASS_UID, sop_class) if sop_class else b""
    before += _element(Element.COMMAND_FIELD, _US.pack(command_field | _RESPONSE_FLAG))
    before += _ELEMENT.pack(0, Element.MESSAGE_ID_BEING_RESPONDED_TO, _US.size)
    between = _element(Element.COMMAND_DATA_SET_TYPE, _US.pack(NO_DATA_SET))
    between += _element(Element.STATUS, _US.pack(status))
    length = len(before) + _US.size + len(between) + behind
    return _element(Element.COMMAND_GROUP_LENGTH, _UL.pack(length)) + before, between


def _explanation(response: Response) -> bytes:
    """Encode Offending Element and Error Comment, if there are any."""
    body = b""
    if response.offending_elements:
        tags = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in response.offending_elements)
        body += _element(Element.OFFENDING_ELEMENT, tags)
    if response.comment:
        comment = response.comment.encode("ascii", "replace")[:64]
        body += _element(Element.ERROR_COMMENT, comment + b" " * (len(comment) % 2))
    return body


def _element(number: int, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0"
    return _ELEMENT.pack(0, number, len(value)) + value
