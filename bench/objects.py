"""Generates files for the senders that read files: always the same Data Set, with new SOP Instance UIDs for each turn.

Invariant: a generated file differs from the template only in the digits of its SOP Instance UID, and no UID is used
twice, so no receiver ever gets an instance that was sent before.
"""

from __future__ import annotations

import secrets
import struct
from pathlib import Path

from bench.encoding import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    UID_DIGITS,
    data_element,
    data_set_head,
    padded,
    random_uid,
)

IMPLEMENTATION_CLASS_UID = b"2.25.1"


def file_head(instance_uid: bytes) -> bytes:
    """Encode preamble, prefix and File Meta Information (PS3.10 §7.1) of a CT instance in Explicit VR Little Endian."""
    meta = struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1"
    meta += data_element(0x0002, 0x0002, b"UI", CT_IMAGE_STORAGE)
    meta += data_element(0x0002, 0x0003, b"UI", instance_uid)
    meta += data_element(0x0002, 0x0010, b"UI", EXPLICIT_VR_LITTLE_ENDIAN)
    meta += data_element(0x0002, 0x0012, b"UI", padded(IMPLEMENTATION_CLASS_UID, b"\0"))
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(meta))
    return b"\0" * 128 + b"DICM" + length + meta


def template(size: int, instance_uid: bytes) -> bytes:
    """Make a Part 10 file with `size` bytes of Pixel Data and the given SOP Instance UID."""
    return file_head(instance_uid) + data_set_head(instance_uid, random_uid(), size) + secrets.token_bytes(size)


def patch_uid(content: bytearray, old: bytes, new: bytes) -> int:
    """Replace each `old` in the first 4 KiB of a file by `new`, which has the same length; return how often."""
    if len(old) != len(new):
        raise ValueError("a UID can only be replaced by one of the same length")
    count, at = 0, content.find(old, 0, 4096)
    while at >= 0:
        content[at : at + len(old)] = new
        count, at = count + 1, content.find(old, at + len(new), 4096)
    return count


def write_files(folder: Path, count: int, size: int) -> None:
    """Make `folder` and write `count` files with `size` bytes of Pixel Data into it, each a new SOP Instance."""
    folder.mkdir(parents=True)
    uid = random_uid()
    content = bytearray(template(size, uid))
    number = int(uid[5:])
    for index in range(1, count + 1):
        new = b"2.25.%0*d" % (UID_DIGITS, number + index)
        if patch_uid(content, uid, new) != 2:
            raise ValueError("the template must contain its SOP Instance UID twice, in File Meta and in the Data Set")
        uid = new
        (folder / f"{index:05d}.dcm").write_bytes(content)
