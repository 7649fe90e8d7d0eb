"""Encodes PDUs, Command Sets and elements byte by byte, right or wrong; no DICOM library would write most of it."""

from __future__ import annotations

import struct

from tests.support import wire
from tests.support.objects import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
"""Those whose length has 32 bits, after two reserved bytes (PS3.5 §7.1.2)."""


def pdu(pdu_type: int, body: bytes = b"\0\0\0\0") -> bytes:
    """Any PDU (PS3.8 §9.3)."""
    return pdu_header(pdu_type, len(body)) + body


def pdu_header(pdu_type: int, length: int) -> bytes:
    """The header of a PDU that announces a body of `length` bytes."""
    return struct.pack(">BxI", pdu_type, length)


def p_data(*pdvs: bytes) -> bytes:
    """A P-DATA-TF PDU of whole PDVs."""
    return pdu(wire.P_DATA_TF, b"".join(pdvs))


def pdv(context_id: int, header: int, data: bytes) -> bytes:
    """A PDV; in `header`, bit 1 means command and bit 2 means last (PS3.8 §E.2)."""
    return struct.pack(">IBB", len(data) + 2, context_id, header) + data


def item(item_type: int, value: bytes, reserved: int = 0) -> bytes:
    """An item or a sub-item of an A-ASSOCIATE PDU (PS3.8 §9.3.2)."""
    return struct.pack(">BBH", item_type, reserved, len(value)) + value


def command_set(elements: dict[int, bytes]) -> bytes:
    """A Command Set with its group length: implicit VR little endian (PS3.7 §6.3.1)."""
    body = b"".join(command_element(number, value) for number, value in sorted(elements.items()))
    return command_element(0, struct.pack("<I", len(body))) + body


def command_element(number: int, value: bytes, group: int = 0) -> bytes:
    """An element of a Command Set."""
    return struct.pack("<HHI", group, number, len(value)) + value


def element(tag: int, vr: str, value: bytes | str, syntax: str = EXPLICIT_LITTLE, length: int | None = None) -> bytes:
    """An element of a Data Set. Text is padded, bytes are not; `length` overrides the length of the value."""
    data = value.encode() if isinstance(value, str) else value
    if isinstance(value, str) and len(data) % 2:
        data += b"\0" if vr == "UI" else b" "
    size = len(data) if length is None else length
    group, number = tag >> 16, tag & 0xFFFF
    if syntax == IMPLICIT_LITTLE:
        return struct.pack("<HHI", group, number, size) + data
    order = ">" if syntax == EXPLICIT_BIG else "<"
    if vr in _LONG_VRS:
        return struct.pack(f"{order}HH2sHI", group, number, vr.encode(), 0, size) + data
    return struct.pack(f"{order}HH2sH", group, number, vr.encode(), size) + data


def ui(text: str) -> bytes:
    """A value of VR UI, padded."""
    return text.encode() + b"\0" * (len(text) % 2)


def us(number: int) -> bytes:
    """A value of VR US."""
    return struct.pack("<H", number)
