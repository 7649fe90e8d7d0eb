"""Reads what the beginning of a file says of the instance in it, as far as C-STORE needs it.

The SOP Class and SOP Instance UID are those of the Data Set, which a receiver compares with the command; the File Meta
Information (PS3.10 §7.1) may name others after a file was edited. A file without preamble or File Meta Information is
read too, if its first bytes tell how it is encoded.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomd.tags import PIXEL_DATA, SOP_INSTANCE_UID

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_HEAD_LENGTH: Final = 1 << 16  # bytes of a deflated Data Set that are inflated at most: the UIDs are in its first group

_StopWhen = Callable[[BaseTag, str | None, int], bool]  # tag, Value Representation and length of the next element


class NotDicomError(Exception):
    """The file's first bytes are those of no DICOM file."""


@dataclass(frozen=True, slots=True)
class FileHead:
    """The beginning of a file. The UIDs are "" if the file doesn't say them.

    `data_set_offset` is where the Data Set begins, in bytes. `is_sendable` says whether the file is a Part 10 file
    whose File Meta Information agrees with its Data Set.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    is_sendable: bool


def read_file_head(file: BinaryIO) -> FileHead:
    """Read the head of a file that is open at its first byte.

    Raises NotDicomError, or whatever pydicom raises for bytes that only begin like DICOM.
    """
    has_preamble = file.read(132)[128:] == b"DICM"
    file.seek(132 if has_preamble else 0)
    if not has_preamble and not _begins_like_dicom(file):
        raise NotDicomError
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_not_in_group(0x0002))
    offset = file.tell()
    syntax = _text(meta, "TransferSyntaxUID")
    if not syntax:
        syntax = _guess_transfer_syntax(file)
        if _may_be_encapsulated(file, syntax):  # in one of many ways, and nothing says which
            syntax = ""
    data_set = _read_first_group(file, syntax)
    in_meta = (_text(meta, "MediaStorageSOPClassUID"), _text(meta, "MediaStorageSOPInstanceUID"))
    in_data_set = (_text(data_set, "SOPClassUID"), _text(data_set, "SOPInstanceUID"))
    sop_class, instance = (found or of_meta for found, of_meta in zip(in_data_set, in_meta, strict=True))
    agrees = in_meta == (sop_class, instance) and bool(meta.get("TransferSyntaxUID"))
    return FileHead(sop_class, instance, syntax, offset, has_preamble and agrees)


def _begins_like_dicom(file: BinaryIO) -> bool:
    """Whether the next bytes are an element of the first group of a Data Set, or of File Meta without its preamble."""
    return _peek(file, 2) in (b"\x02\0", b"\x08\0", b"\0\x08") and bool(_guess_transfer_syntax(file))


def _guess_transfer_syntax(file: BinaryIO) -> str:
    """Return the uncompressed Transfer Syntax in which the next bytes are an element of group 0002 or 0008, else ""."""
    element = _peek(file, 8)
    has_vr = element[4:6].isalpha() and element[4:6].isupper()
    if element[:2] == b"\0\x08":
        return str(ExplicitVRBigEndian) if has_vr else ""
    if element[:2] not in (b"\x02\0", b"\x08\0") or len(element) < 8:
        return ""
    if has_vr:
        return str(ExplicitVRLittleEndian)
    return str(ImplicitVRLittleEndian) if int.from_bytes(element[4:], "little") < _HEAD_LENGTH else ""


def _read_first_group(file: BinaryIO, syntax: str) -> Dataset:
    """Read the Data Set as far as the SOP Instance UID."""
    if syntax == DeflatedExplicitVRLittleEndian:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(_HEAD_LENGTH), _HEAD_LENGTH)
        file = io.BytesIO(inflated)
    return _read_until(file, syntax, lambda tag, _vr, _length: tag > SOP_INSTANCE_UID)[0]


def _may_be_encapsulated(file: BinaryIO, syntax: str) -> bool:
    """Whether the Pixel Data has an undefined length (PS3.5 §A.4), or isn't found because elements are out of order."""
    if syntax != ExplicitVRLittleEndian:  # no other Transfer Syntax that can be guessed encodes elements the same way
        return False
    found: list[bool] = []

    def at_pixel_data(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            found.append(length == _UNDEFINED_LENGTH)
        return bool(tag >= PIXEL_DATA)

    start = file.tell()
    in_order = _read_until(file, syntax, at_pixel_data)[1]
    file.seek(start)
    return found[0] if found else not in_order


def _read_until(file: BinaryIO, syntax: str, stop_when: _StopWhen) -> tuple[Dataset, bool]:
    """Read until then or until one is out of order, as in a file that ends in NULs; return whether none was."""
    uid = UID(syntax)
    is_known = uid.is_transfer_syntax
    last = -1
    in_order = True

    def stops(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal last, in_order
        in_order = tag > last
        last = tag
        return not in_order or stop_when(tag, vr, length)

    data_set = read_dataset(
        file,
        is_implicit_VR=is_known and uid.is_implicit_VR,
        is_little_endian=not is_known or uid.is_little_endian,
        stop_when=stops,
        defer_size=_HEAD_LENGTH,
    )
    return data_set, in_order


def _not_in_group(group: int) -> _StopWhen:
    return lambda tag, _vr, _length: tag.group != group


def _peek(file: BinaryIO, length: int) -> bytes:
    start = file.tell()
    found = file.read(length)
    file.seek(start)
    return found


def _text(data_set: Dataset, keyword: str) -> str:
    return str(data_set.get(keyword) or "")
