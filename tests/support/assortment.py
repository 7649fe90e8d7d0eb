"""One object of each kind that senders treat differently, as files for every sender to send.

Invariant: no two have the same SOP Instance UID, so that what is stored is matched with its file by that alone.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import UID

from tests.support.objects import EXPLICIT_BIG, Instance, write_file
from tests.support.pydicom_files import sample_files

PRIVATE_CLASS = "1.2.840.113619.4.30"
"""A SOP Class of a vendor's, which a receiver accepts if its configuration lists it."""

_PYDICOM_FILES = {
    "CT": "CT_small.dcm",
    "RT Dose, implicit": "rtdose.dcm",
    "US, big-endian": "ExplVR_BigEnd.dcm",
    "SC, deflated": "image_dfl.dcm",
    "JPEG": "SC_rgb_jpeg_dcmtk.dcm",
    "JPEG, 12 bit": "JPGExtended.dcm",
    "JPEG, 30 frames": "examples_ybr_color.dcm",
    "JPEG 2000": "JPEG2000.dcm",
    "JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
    "RLE, 2 frames": "SC_rgb_rle_2frame.dcm",
    "SEG": "liver_1frame.dcm",
    "SR": "test-SR.dcm",
    "ECG": "waveform_ecg.dcm",
}
_PRIVATE, _BIG = "private class", "CT, 4 MB"
KINDS = (*_PYDICOM_FILES, _PRIVATE, _BIG)


@dataclass(frozen=True)
class Item:
    """An object as a Part 10 file, and the instance that the file holds."""

    kind: str
    path: Path
    instance: Instance


def make_assortment(folder: Path) -> list[Item]:
    """Write the files of all kinds into `folder`."""
    items = []
    by_name = {file.path.name: file for file in sample_files()}
    for kind, name in _PYDICOM_FILES.items():
        instance = by_name[name].instance
        assert instance is not None
        items.append(Item(kind, shutil.copy(by_name[name].path, folder / name), instance))
    private, big = folder / "private.dcm", folder / "big.dcm"
    items.append(Item(_PRIVATE, private, write_file(private, sop_class_uid=PRIVATE_CLASS)))
    items.append(Item(_BIG, big, write_file(big, size=4_000_000)))
    assert len({item.instance.sop_instance_uid for item in items}) == len(items)
    return items


def is_compressed(transfer_syntax: str) -> bool:
    """Whether pixel data is compressed in it; in a deflated one it isn't, since the whole Data Set is."""
    return UID(transfer_syntax).is_compressed and not UID(transfer_syntax).is_deflated


def differing_elements(one: Path, other: Path) -> list[str]:
    """The elements of two files whose values differ, by keyword or tag.

    What the encoding alone decides isn't compared: group lengths, padding, and the byte order of words.
    """
    first, second = _values(one), _values(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _values(path: Path) -> dict[str, object]:
    with warnings.catch_warnings():  # about values that are not compared here either
        warnings.simplefilter("ignore")
        ds = dcmread(path, force=True)
        return _values_in(ds, big=str(ds.file_meta.TransferSyntaxUID) == EXPLICIT_BIG)


def _values_in(ds: Dataset, *, big: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    for element in ds:
        if element.tag.element == 0 or element.keyword == "DataSetTrailingPadding":
            continue
        value: object = element.value
        if element.VR == "SQ":
            value = [_values_in(item, big=big) for item in element.value]
        elif isinstance(value, bytes):
            swapped = big and element.VR in ("OW", "US or SS or OW")
            value = (_swapped(value) if swapped else value).rstrip(b"\0")
        else:
            value = str(value).rstrip()
        found[element.keyword or str(element.tag)] = value
    return found


def _swapped(words: bytes) -> bytes:
    swapped = bytearray(words)
    swapped[0::2], swapped[1::2] = words[1::2], words[0::2]
    return bytes(swapped)
