"""What a file without a checksum may hold, because senders send it, and what shows that something is missing."""

import struct
import zlib
from pathlib import Path

import pytest

from dicomd.store.whole import CUT_OFF, DAMAGED_STREAM, NO_ELEMENT, damage
from tests.unit.store.instances import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    data_set,
    element,
    head,
    item,
)

ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
INNER = element(0x00081150, "UI", "1.2.840.10008.5.1.4.1.1.2")
PIXELS = element(0x7FE00010, "OW", bytes(64))


def sequence(*parts: bytes, vr: str = "SQ", syntax: str = EXPLICIT, tag: int = 0x00400260) -> bytes:
    return element(tag, vr, b"".join(parts), syntax, UNDEFINED)


def _deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


OPEN_ITEM = item(ITEM, UNDEFINED) + INNER
JPEG = element(
    0x7FE00010, "OB", item(ITEM, 0) + item(ITEM, 9) + bytes(9) + item(SEQUENCE_END, 0), length=UNDEFINED
)  # PS3.5 §A.4: the fragment is odd
ORDERLY = {
    "explicit": (EXPLICIT, data_set()),
    "implicit": (IMPLICIT, data_set(syntax=IMPLICIT)),
    "big endian": (BIG_ENDIAN, data_set(syntax=BIG_ENDIAN)),
    "Papyrus 3": ("1.2.840.10008.1.20", data_set(syntax=IMPLICIT)),
    "GE's private one": ("1.2.840.113619.5.2", data_set(syntax=IMPLICIT)),
    "an unknown one": ("1.2.3.4.5", data_set()),
    "deflated": (DEFLATED, _deflated(data_set())),
    "JPIP Referenced Deflate": ("1.2.840.10008.1.2.4.95", _deflated(head())),
    "encapsulated": ("1.2.840.10008.1.2.1.98", head() + JPEG),
    "a sequence": (EXPLICIT, head() + sequence(OPEN_ITEM, item(ITEM_END, 0), item(SEQUENCE_END, 0)) + PIXELS),
    "a sequence, big endian": (
        BIG_ENDIAN,
        head(syntax=BIG_ENDIAN)
        + sequence(item(ITEM, UNDEFINED, ">"), item(ITEM_END, 0, ">"), item(SEQUENCE_END, 0, ">"), syntax=BIG_ENDIAN),
    ),
    "nothing": (EXPLICIT, b""),
}
ODD = {
    "explicit under implicit": (IMPLICIT, data_set()),
    "implicit under explicit": (EXPLICIT, data_set(syntax=IMPLICIT)),
    "an implicit element among explicit ones": (EXPLICIT, head() + element(0x00400100, "", b"1234", IMPLICIT) + PIXELS),
    "an odd byte behind": (EXPLICIT, data_set() + b"\0"),
    "zeros behind": (EXPLICIT, data_set() + bytes(100)),
    "zeros behind a report": (EXPLICIT, head() + bytes(100)),
    "zeros behind a report with implicit VRs": (IMPLICIT, head(syntax=IMPLICIT) + bytes(99)),
    "anything behind Pixel Data": (EXPLICIT, data_set() + b"end of file, says this sender"),
    "the Data Set twice": (EXPLICIT, data_set() * 2),
    "an odd length": (EXPLICIT, head() + element(0x00400275, "LO", b"odd") + element(0x7FE00010, "OW", bytes(63))),
    "bytes behind a deflated stream": (DEFLATED, _deflated(data_set()) + b"\0"),
    "elements behind Pixel Data": (EXPLICIT, data_set() + element(0xFFFCFFFC, "OB", bytes(7))),
    "private elements without values": (
        EXPLICIT,
        head() + element(0x00430010, "LO", b"") + element(0x00431001, "UN", b""),
    ),
    "VR ??": (EXPLICIT, head() + element(0x00431002, "??", b"1234") + PIXELS),
    "VR of NULs": (EXPLICIT, head() + element(0x00431002, "\0\0", b"1234") + PIXELS),
    "VR of spaces": (EXPLICIT, head() + element(0x00431002, "  ", b"1234") + PIXELS),
    "group 0002": (EXPLICIT, element(0x00020010, "UI", "1.2.840.10008.1.2.4.70") + data_set()),
    "elements out of order": (
        EXPLICIT,
        head() + element(0x00400275, "LO", b"12") + element(0x00280010, "US", b"\1\0") + PIXELS,
    ),
    "delimiters with a length": (
        EXPLICIT,
        head() + sequence(OPEN_ITEM, item(ITEM_END, 8), item(SEQUENCE_END, UNDEFINED)) + PIXELS,
    ),
    "an item without a delimiter": (EXPLICIT, head() + sequence(OPEN_ITEM, item(SEQUENCE_END, 0)) + PIXELS),
    "two items without delimiters": (EXPLICIT, head() + sequence(OPEN_ITEM, OPEN_ITEM, item(SEQUENCE_END, 0)) + PIXELS),
    "a delimiter behind a sequence of known length": (
        EXPLICIT,
        head() + element(0x00400260, "SQ", item(ITEM, len(INNER)) + INNER) + item(SEQUENCE_END, 0) + PIXELS,
    ),
    "UN of undefined length": (
        EXPLICIT,
        head()
        + sequence(
            item(ITEM, UNDEFINED) + element(0x00081150, "UI", "1.2", IMPLICIT),
            item(ITEM_END, 0),
            item(SEQUENCE_END, 0),
            vr="UN",
        )
        + PIXELS,
    ),
    "a private value that doesn't consist of items": (
        EXPLICIT,
        head() + sequence(b"not items" * 20, item(SEQUENCE_END, 0), vr="OB", tag=0x00431003) + PIXELS,
    ),
}


def found(path: Path, data: bytes, syntax: str) -> str:
    path.write_bytes(bytes(140) + data)
    with path.open("rb") as file:
        return damage(file.fileno(), 140, syntax)


@pytest.mark.parametrize("name", ORDERLY | ODD)
def test_what_senders_send_is_whole(tmp_path: Path, name: str) -> None:
    syntax, data = (ORDERLY | ODD)[name]
    assert found(tmp_path / "file", data, syntax) == ""


@pytest.mark.parametrize("name", [name for name in ORDERLY if name != "nothing"])
def test_what_is_cut_off_inside_an_element_is_found(tmp_path: Path, name: str) -> None:
    syntax, data = ORDERLY[name]
    damages = {found(tmp_path / "file", data[:-lost], syntax) for lost in (1, 2)}
    assert damages in ({CUT_OFF}, {DAMAGED_STREAM})


def test_what_is_cut_off_is_found_wherever_a_long_value_is(tmp_path: Path) -> None:
    data = head() + sequence(item(ITEM, 100) + bytes(99)) + bytes(1)
    assert found(tmp_path / "file", data, EXPLICIT) == CUT_OFF  # the sequence isn't ended
    assert found(tmp_path / "file", data[:-1], EXPLICIT) == CUT_OFF
    assert found(tmp_path / "file", head() + struct.pack("<HH2sH", 0x40, 1, b"OB", 0), EXPLICIT) == CUT_OFF


@pytest.mark.parametrize("rest", [b"\xff" * 64, b"\0" * 64 + b"\1"])
def test_what_is_no_element_is_found(tmp_path: Path, rest: bytes) -> None:
    assert found(tmp_path / "file", head() + rest, EXPLICIT) == NO_ELEMENT
    inside = head() + sequence(item(ITEM, UNDEFINED) + b"\xff" * 64)
    assert found(tmp_path / "file", inside, EXPLICIT) == NO_ELEMENT


def test_endless_nesting_is_not_followed(tmp_path: Path) -> None:
    data = head() + sequence(b"".join(OPEN_ITEM + sequence() for _ in range(1000)))
    assert found(tmp_path / "file", data, EXPLICIT) == ""
