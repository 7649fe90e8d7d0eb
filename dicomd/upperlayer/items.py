"""Reads and writes the items of an A-ASSOCIATE PDU (PS3.8 §9.3.2): a type, a length, a value.

Invariant: nothing is read past the end of the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dicomd.uids import MAX_UID_LENGTH

# Item types of PS3.8 §9.3.2 and §9.3.3.
APPLICATION_CONTEXT = 0x10
PRESENTATION_CONTEXT = 0x20
PRESENTATION_CONTEXT_RESULT = 0x21
ABSTRACT_SYNTAX = 0x30
TRANSFER_SYNTAX = 0x40
USER_INFORMATION = 0x50

LONGEST_UID = MAX_UID_LENGTH + 1
"""Bytes of a UID and one of padding, which an item must not have (PS3.8 Annex F) but some requestors send."""

_HEADER = struct.Struct(">BxH")


class MalformedRequestError(Exception):
    """The A-ASSOCIATE-RQ can't be read; it has to be answered as an invalid PDU (Evt19).

    `limit` is the limit that it exceeds, or "".
    """

    def __init__(self, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class UIDLengthError(MalformedRequestError):
    """A UID that has too many bytes."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a UID of {length} bytes, {MAX_UID_LENGTH} at most", "uid_length")


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the value of each item. Raises `MalformedRequestError`."""
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise MalformedRequestError("an item is cut short")
        item_type, length = _HEADER.unpack_from(data, at)
        start = at + 4
        at = start + length
        if at > end:
            raise MalformedRequestError(f"item {item_type:02X}H is longer than what contains it")
        yield item_type, data[start:at]


def encoded(item_type: int, value: bytes) -> bytes:
    """Encode an item. Raises `struct.error` for a value of more than 65,535 bytes."""
    return _HEADER.pack(item_type, len(value)) + value


def uid_text(value: bytes) -> str:
    """Return the UID in an item, without its padding.

    Its characters aren't checked, since it is only compared with known UIDs, or shown. Raises
    `MalformedRequestError` if it is longer than a UID may be, or not text.
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
