"""Parses stored Part 10 files without any DICOM library (PS3.10 §7.1), so that every byte is accounted for."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_LONG_VRS = (b"OB", b"UN")


@dataclass(frozen=True)
class StoredFile:
    """Preamble, File Meta Information by tag (values with their padding) and the Data Set's bytes."""

    path: Path
    preamble: bytes
    meta: dict[int, bytes]
    data_set: bytes

    def text(self, tag: int) -> str:
        """A File Meta value as text without its padding."""
        return self.meta[tag].rstrip(b"\0 ").decode("ascii")

    @property
    def sop_class_uid(self) -> str:
        return self.text(0x00020002)

    @property
    def sop_instance_uid(self) -> str:
        return self.text(0x00020003)

    @property
    def transfer_syntax(self) -> str:
        return self.text(0x00020010)


def read_part10(path: Path) -> StoredFile:
    """Parse a file written by dicomd. Raises ValueError if it does not conform to PS3.10."""
    preamble, meta, data_set = split_part10(path.read_bytes())
    length = sum(_header_size(tag) + len(value) for tag, value in meta.items() if tag != 0x00020000)
    if list(meta) != sorted(meta) or meta.get(0x00020000) != struct.pack("<I", length):
        raise ValueError(f"{path}: the File Meta Information is not sorted, or its group length is wrong")
    return StoredFile(path, preamble, meta, data_set)


def split_part10(content: bytes) -> tuple[bytes, dict[int, bytes], bytes]:
    """Preamble, File Meta values by tag, Data Set. Relies on tags alone, as some files have no group length."""
    if content[128:132] != b"DICM":
        raise ValueError("not a Part 10 file")
    meta: dict[int, bytes] = {}
    at = 132
    while content[at : at + 2] == b"\x02\x00":
        group, element, vr = struct.unpack_from("<HH2s", content, at)
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<I", content, at + 8)
            at += 12
        else:
            (length,) = struct.unpack_from("<H", content, at + 6)
            at += 8
        meta[group << 16 | element] = content[at : at + length]
        at += length
    return content[:128], meta, content[at:]


def _header_size(tag: int) -> int:
    return 12 if tag in (0x00020001, 0x00020102) else 8
