"""How each transfer syntax encodes the elements of a Data Set: byte order, with VRs or without (PS3.5 §7.1, §10)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dicomd.store.errors import DataSetUnreadable

# PS3.5 §7.1.2: these have a length of 16 bits; every other VR, known or not yet, has two reserved bytes and 32 bits.
_SHORT_VRS: Final = "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
_HIGHEST_IN_HEAD: Final = 0x20
"""The group of Study and Series Instance UID; instances begin with a lower one."""
_IMPLAUSIBLE_LENGTH: Final = 0x2020
"""Of a value in the head, in bytes. Two spaces instead of a VR are this number, and other printable characters more."""

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
        frozenset(map(number, _SHORT_VRS)),
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


def is_vr(vr: int) -> bool:
    """Whether this can be a VR: all present and future ones are two upper-case letters (PS3.5 §6.2)."""
    return 0x41 <= vr >> 8 <= 0x5A and 0x41 <= vr & 0xFF <= 0x5A


def has_long_form(vr: int, length: int) -> bool:
    """Whether a VR that isn't one of the short ones is followed by a length of 32 bits, rather than `length` of 16.

    Some writers put question marks, NULs or spaces where they don't know the VR, and the length then has 16 bits, as
    DCMTK reads it. pydicom takes such an element for one of Implicit VR. If it is a plausible one, as those of writers
    that change the encoding halfway are, what follows has two meanings. Raises ``DataSetUnreadable``.
    """
    if is_vr(vr):
        return True
    if not length and 0 < vr < _IMPLAUSIBLE_LENGTH:
        raise DataSetUnreadable("Data Set changes to Implicit VR within")
    return False


def is_swapped(group: int) -> bool:
    """Whether a Data Set that begins with this group has the other byte order than the one it was read in."""
    return group > _HIGHEST_IN_HEAD and not group & 0xFF and group >> 8 <= _HIGHEST_IN_HEAD
