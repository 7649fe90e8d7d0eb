"""The items that a PDU of the Association's opening is made of (PS3.8 §9.3.2): a type, a length, a value.

The rule it keeps: nothing is read past the end of what came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dicomd.uids import MAX_UID_LENGTH

APPLICATION_CONTEXT, PRESENTATION_CONTEXT, USER_INFORMATION = 0x10, 0x20, 0x50
PRESENTATION_CONTEXT_RESULT = 0x21
ABSTRACT_SYNTAX, TRANSFER_SYNTAX = 0x30, 0x40

LONGEST_UID = MAX_UID_LENGTH + 1
"""Bytes: a UID, and one of padding, which has no place in an item (PS3.8 Annex F) but is sent."""

_HEADER = struct.Struct(">BxH")


class MalformedRequestError(Exception):
    """The A-ASSOCIATE-RQ can't be understood: to be answered as an invalid PDU (Evt19).

    `limit` is the one that it exceeds, "" for none.
    """

    def __init__(self, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class UIDLengthError(MalformedRequestError):
    """A UID of so many bytes."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a UID of {length} bytes, {MAX_UID_LENGTH} at most", "uid_length")


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the value of each item. Raises `MalformedRequestError`."""
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise MalformedRequestError("an item is cut short")
        item_type, length = _HEADER.unpack_from(data, at)
        start, at = at + 4, at + 4 + length
        if at > end:
            raise MalformedRequestError(f"item {item_type:02X}H is longer than what it is in")
        yield item_type, data[start:at]


def encoded(item_type: int, value: bytes) -> bytes:
    """An item. Raises `struct.error` for a value of more than 65,535 bytes."""
    return _HEADER.pack(item_type, len(value)) + value


def uid_text(value: bytes) -> str:
    """The UID in an item, without its padding.

    What it consists of is not looked at: it is compared with UIDs that are known, or shown. Raises
    `MalformedRequestError` for more than a UID may have, or what isn't text.
    """
    if len(value) > LONGEST_UID:
        raise UIDLengthError(len(value))
    try:
        text = value.removesuffix(b"\0").decode("ascii").strip()
    except UnicodeDecodeError:
        raise MalformedRequestError("a UID that is not text") from None
    if len(text) > MAX_UID_LENGTH:
        raise UIDLengthError(len(text))
    return text
