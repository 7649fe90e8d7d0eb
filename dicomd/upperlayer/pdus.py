"""The PDU types of PS3.8 §9.3, and the encoders of the few simple PDUs that an acceptor sends.

The A-ASSOCIATE-AC is less simple, and made by `negotiation`.
"""

from __future__ import annotations

import struct
from enum import IntEnum

PDU_HEADER = struct.Struct(">BxI")
"""PDU type, a reserved byte, and the length of the rest (PS3.8 §9.3.1)."""
PDV_HEADER = struct.Struct(">IBB")
"""PDV length, Presentation Context ID and message control header (PS3.8 §9.3.5.1 and Annex E.2)."""

SINGLE_PDV_HEADER = struct.Struct(">BxIIBB")
"""Both headers of a P-DATA-TF with one PDV."""

COMMAND = 1
"""Bit of the message control header: the fragment belongs to a Command Set, else to a Data Set (PS3.8 Annex E.2)."""
LAST = 2
"""Bit of the message control header: the fragment is the last one of its Command Set or Data Set."""

A_RELEASE_RP_PDU = bytes.fromhex("06 00 00000004 00000000")


class PDUType(IntEnum):
    """The PDU types of PS3.8 §9.3.2 to §9.3.8."""

    A_ASSOCIATE_RQ = 1
    A_ASSOCIATE_AC = 2
    A_ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    A_RELEASE_RQ = 5
    A_RELEASE_RP = 6
    A_ABORT = 7


P_DATA_TF = int(PDUType.P_DATA_TF)
"""For what is done for each PDU: in Python 3.11, looking up the member of the Enum costs several times as much."""


def a_abort(source: int, reason: int) -> bytes:
    """Encode an A-ABORT PDU (PS3.8 §9.3.8)."""
    return struct.pack(">BBIBBBB", PDUType.A_ABORT, 0, 4, 0, 0, source, reason)


def a_associate_rj(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ PDU (PS3.8 §9.3.4)."""
    return struct.pack(">BBIBBBB", PDUType.A_ASSOCIATE_RJ, 0, 4, 0, result, source, reason)


def p_data_tf(context_id: int, command_set: bytes, max_pdu: int) -> bytes:
    """Encode a Command Set in P-DATA-TF PDUs (PS3.8 §9.3.5): in one, unless the peer's limit is very small.

    `max_pdu` is the length in bytes of the longest PDU that the peer accepts, 0 for no limit.
    """
    length = len(command_set)
    if not max_pdu or length + PDV_HEADER.size <= max_pdu:
        return SINGLE_PDV_HEADER.pack(P_DATA_TF, length + 6, length + 2, context_id, COMMAND | LAST) + command_set
    step = max(2, max_pdu - PDV_HEADER.size) & ~1
    parts = []
    for at in range(0, length, step):
        piece = command_set[at : at + step]
        control = COMMAND | LAST if at + step >= length else COMMAND
        parts.append(SINGLE_PDV_HEADER.pack(P_DATA_TF, len(piece) + 6, len(piece) + 2, context_id, control))
        parts.append(piece)
    return b"".join(parts)
