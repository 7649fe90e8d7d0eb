"""Writes and reads the beginning of a Part 10 file: preamble and File Meta Information (PS3.10 §7.1).

Invariant: what is written depends only on the command and the Presentation Context. So it can be written before the
first byte of the Data Set, which then follows as it was received.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import Final, NamedTuple

from dicomd.ae_titles import legal_ae_title
from dicomd.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomd.store.types import InstanceIdentity

_PREAMBLE: Final = bytes(128) + b"DICM"
_GROUP_LENGTH: Final = struct.Struct("<HH2sHI")
_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2sHI")
_VERSION: Final = _LONG.pack(0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01"
_LEAST: Final = len(_PREAMBLE) + _GROUP_LENGTH.size
_MAX_READ: Final = 1 << 16  # real File Meta Information has only a few hundred bytes


class Header(NamedTuple):
    """The File Meta Information of a Part 10 file. Its Data Set begins at ``data_set_offset``.

    The AE Titles are those of the Association by which it was received, "" if they were empty, None if the file doesn't
    say: Source (0002,0016) and Receiving Application Entity Title (0002,0018).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    calling_ae_title: str | None
    called_ae_title: str | None


def header(identity: InstanceIdentity) -> bytes:
    """Encode the preamble and File Meta Information of an instance, in Explicit VR Little Endian."""
    uid = identity.sop_instance_uid.encode("ascii", "replace")
    before, behind = _around(
        len(uid),
        identity.sop_class_uid,
        identity.transfer_syntax_uid,
        identity.calling_ae_title,
        identity.called_ae_title,
    )
    return before + uid + behind


# The instances of one Association usually differ only in Media Storage SOP Instance UID (0002,0003). A receiver sees
# few SOP Classes, transfer syntaxes and peers; the bound is for hostile ones.
@lru_cache(maxsize=512)
def _around(
    length: int, sop_class_uid: str, transfer_syntax_uid: str, calling_ae_title: str, called_ae_title: str
) -> tuple[bytes, bytes]:
    """Encode what precedes and follows the `length` bytes of the SOP Instance UID."""
    before = _VERSION + _element(0x0002, b"UI", sop_class_uid.encode("ascii", "replace"))
    instance = _element(0x0003, b"UI", bytes(length))
    behind = b"".join(
        (
            instance[_SHORT.size + length :],
            _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii", "replace")),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),
            _element(0x0016, b"AE", legal_ae_title(calling_ae_title).encode()),
            _element(0x0018, b"AE", legal_ae_title(called_ae_title).encode()),
        )
    )
    before += instance[: _SHORT.size]
    return _PREAMBLE + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(before) + length + len(behind)) + before, behind


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(0x0002, number, vr, len(value)) + value


def read_header(fd: int) -> Header | None:
    """Return the header of the file open as ``fd``; None if it isn't a Part 10 file. Raises OSError if reading fails.

    Reads the files of any writer. The elements of group 0002 are read until another group begins, since (0002,0000) is
    wrong in some files; in dicomd's own it is right, and some of theirs have a Data Set that begins with group 0002.
    """
    data = os.pread(fd, _MAX_READ, 0)
    if data[128:132] != b"DICM":
        return None
    at = len(_PREAMBLE)
    values: dict[int, str] = {}
    end = at + _GROUP_LENGTH.size + _GROUP_LENGTH.unpack_from(data.ljust(_LEAST), at)[4]
    while at + 8 <= len(data):
        if at == end and values.get(0x0012) == IMPLEMENTATION_CLASS_UID:
            break
        group, number, vr, length = _SHORT.unpack_from(data, at)
        if group != 0x0002:
            break
        value = at + 8
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            if at + 12 > len(data):
                return None
            length = _LONG.unpack_from(data, at)[4]
            value += 4
        at = value + length
        if at > len(data):
            return None
        if vr in (b"UI", b"AE"):
            values[number] = data[value:at].rstrip(b"\0 ").decode("ascii", "replace")
    goes_on = len(data) == _MAX_READ and at + 8 > _MAX_READ
    if 0x0010 not in values or goes_on:
        return None
    return Header(
        values.get(0x0002, ""),
        values.get(0x0003, ""),
        values[0x0010],
        at,
        calling_ae_title=values.get(0x0016),
        called_ae_title=values.get(0x0018),
    )
