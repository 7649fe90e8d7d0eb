"""Reads and writes the items of an A-ASSOCIATE PDU (PS3.8 §9.3.2): a type, a length, a value.

Invariant: nothing is read past the end of the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dicomd.uids import MAX_UID_LENGTH, PADDING

# Item types of PS3.8 §9.3.2 and §9.3.3.
APPLICATION_CONTEXT = 0x10
PRESENTATION_CONTEXT = 0x20
PRESENTATION_CONTEXT_RESULT = 0x21
ABSTRACT_SYNTAX = 0x30
TRANSFER_SYNTAX = 0x40
USER_INFORMATION = 0x50

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
        super().__init__(f"has a UID of {length} characters, and {MAX_UID_LENGTH} is the limit", "uid_length")


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the value of each item. Raises `MalformedRequestError`."""
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise MalformedRequestError(f"an item ends after {end - at} bytes, within its header of 4")
        item_type, length = _HEADER.unpack_from(data, at)
        start = at + 4
        at = start + length
        if at > end:
            raise MalformedRequestError(f"item {item_type:02X}H announces {length} bytes, and {end - start} follow")
        yield item_type, data[start:at]


def encoded(item_type: int, value: bytes) -> bytes:
    """Encode an item. Raises `struct.error` for a value of more than 65,535 bytes."""
    return _HEADER.pack(item_type, len(value)) + value


def uid_text(value: bytes) -> str:
    """Return the UID in an item, without its padding.

    Padding doesn't count as length: PS3.8 Annex F allows none, but some requestors fill a field of fixed size with it.
    The UID's characters aren't checked, since it is only compared with known UIDs, or shown. Raises
    `MalformedRequestError` if it is longer than a UID may be, or not text.
    """
    uid = value.strip(PADDING)
    if len(uid) > MAX_UID_LENGTH:
        raise UIDLengthError(len(uid))
    try:
        return uid.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedRequestError("has a UID that is not text") from None
