"""How each transfer syntax encodes the elements of a Data Set: byte order, with VRs or without (PS3.5 §7.1, §10)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dicomd.store.errors import DataSetUnreadable

# PS3.5 §7.1.2: these have a length of 16 bits; every other VR, known or not yet, has two reserved bytes and 32 bits.
_SHORT_VRS: Final = "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
# What some writers put where they don't know the VR, with a length of 16 bits.
_UNKNOWN_VR: Final = "??"

_Unpack = Callable[[Any, int], tuple[int, ...]]


class ElementEncoding(NamedTuple):
    """How elements are read: functions that unpack what is at an offset, and VRs as the numbers that these return."""

    explicit: bool
    header: _Unpack  # explicit: group, element, VR, 16-bit length; implicit: group, element, 32-bit length
    item: _Unpack  # group, element, 32-bit length: items and delimiters have no VR
    length: _Unpack  # 32-bit length
    short_vrs: frozenset[int]
    un: int


def _encoding(order: str, *, explicit: bool) -> ElementEncoding:
    def number(vr: str) -> int:
        return int(struct.unpack(f"{order}H", vr.encode())[0])

    item = struct.Struct(f"{order}HHI").unpack_from
    return ElementEncoding(
        explicit,
        struct.Struct(f"{order}HHHH").unpack_from if explicit else item,
        item,
        struct.Struct(f"{order}I").unpack_from,
        frozenset(number(vr) for vr in [*_SHORT_VRS, _UNKNOWN_VR]),
        number("UN"),
    )


EXPLICIT_LITTLE: Final = _encoding("<", explicit=True)
EXPLICIT_BIG: Final = _encoding(">", explicit=True)
IMPLICIT_LITTLE: Final = _encoding("<", explicit=False)

# All other transfer syntaxes, including encapsulated and private ones, are Explicit VR Little Endian (PS3.5 §A.4).
ENCODINGS: Final[dict[str, ElementEncoding]] = {
    "1.2.840.10008.1.2": IMPLICIT_LITTLE,
    "1.2.840.10008.1.20": IMPLICIT_LITTLE,  # Papyrus 3, retired
    "1.2.840.113619.5.2": IMPLICIT_LITTLE,  # GE's private one: only its pixel data is big endian
    "1.2.840.10008.1.2.2": EXPLICIT_BIG,
}
DEFLATED: Final = frozenset(
    {
        "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
    }
)


def actual_encoding(announced: ElementEncoding, first: int, second: int) -> ElementEncoding:
    """Return the encoding of the first element, from the two bytes after its tag: a VR, or a length below 16,705."""
    has_vr = 0x41 <= first <= 0x5A and 0x41 <= second <= 0x5A
    if has_vr == announced.explicit or announced is EXPLICIT_BIG:
        return announced
    return EXPLICIT_LITTLE if has_vr else IMPLICIT_LITTLE


def check_vr(vr: int) -> None:
    """Reject what can't be a VR: all present and future ones are two upper-case letters (PS3.5 §6.2)."""
    if not (0x41 <= vr >> 8 <= 0x5A and 0x41 <= vr & 0xFF <= 0x5A):
        raise DataSetUnreadable("Element has no Value Representation")
