"""The items that a PDU of the Association's opening is made of (PS3.8 §9.3.2): a type, a length, a value.

The rule it keeps: nothing is read past the end of what came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

APPLICATION_CONTEXT, PRESENTATION_CONTEXT, USER_INFORMATION = 0x10, 0x20, 0x50
ABSTRACT_SYNTAX, TRANSFER_SYNTAX = 0x30, 0x40


class MalformedRequestError(Exception):
    """The A-ASSOCIATE-RQ can't be understood: to be answered as an invalid PDU (Evt19).

    `limit` is the one that it exceeds, "" for none.
    """

    def __init__(self, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type of each item, and all of it, header included. Raises `MalformedRequestError`."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise MalformedRequestError("an item is cut short")
        item_type, length = struct.unpack_from(">BxH", data, at)
        end = at + 4 + length
        if end > len(data):
            raise MalformedRequestError(f"item {item_type:02X}H is longer than the PDU")
        yield item_type, data[at:end]
        at = end
