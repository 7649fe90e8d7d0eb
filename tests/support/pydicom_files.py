"""The DICOM files in pydicom's package, each as an instance to send or with the reason why it can't be sent.

Invariant: Data Sets are sent byte for byte as they are in the files, and no file is left out silently.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom.data
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from tests.support.objects import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MEDIA_STORAGE_DIRECTORY,
    Instance,
)
from tests.support.part10 import split_part10

_NOT_DICOM = {".py", ".pyc", ".json", ".txt", ".md", ".gz", ".dump", ".icc"}
_NOT_DICOM_NAMES = {"README"}


@dataclass(frozen=True)
class SampleFile:
    """A file of pydicom's. `instance` is None if it can't be sent, and `why_not` gives the reason."""

    path: Path
    name: str
    instance: Instance | None
    why_not: str
    has_study_and_series: bool


@cache
def sample_files() -> tuple[SampleFile, ...]:
    """All DICOM files in pydicom's package, sorted by name."""
    root = Path(pydicom.data.__file__).parent
    return tuple(
        _read(path, str(path.relative_to(root)))
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in _NOT_DICOM and path.name not in _NOT_DICOM_NAMES
    )


def sample(name: str) -> Path:
    """The path of the file with this name."""
    return next(file.path for file in sample_files() if file.path.name == name)


def _read(path: Path, name: str) -> SampleFile:
    with warnings.catch_warnings():  # pydicom warns about most of them, which is what they are for
        warnings.simplefilter("ignore")
        ds = dcmread(path, force=True)
        sop_class = _text(ds, "SOPClassUID")
        sop_instance = _text(ds, "SOPInstanceUID")
        has_both = bool(_text(ds, "StudyInstanceUID") and _text(ds, "SeriesInstanceUID"))
        transfer_syntax = _text(ds.file_meta, "TransferSyntaxUID") or _found_encoding(ds)
        in_meta = _text(ds.file_meta, "MediaStorageSOPClassUID")
    if MEDIA_STORAGE_DIRECTORY in (sop_class, in_meta):
        return SampleFile(path, name, None, "a DICOMDIR, whose SOP Class is for media only", has_both)
    if not (sop_class and sop_instance):
        # A C-STORE-RQ needs both UIDs (PS3.7 Table 9.3-1), and an honest sender can't invent them. Those of the File
        # Meta Information aren't in the Data Set, which is refused without them.
        return SampleFile(path, name, None, "no SOP Class UID or no SOP Instance UID in its Data Set", has_both)
    content = path.read_bytes()
    body = split_part10(content)[2] if content[128:132] == b"DICM" else content
    return SampleFile(path, name, Instance(sop_class, sop_instance, transfer_syntax, body), "", has_both)


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "")


def _found_encoding(ds: Dataset) -> str:
    implicit, little = ds.original_encoding
    if implicit:
        return IMPLICIT_LITTLE
    return EXPLICIT_LITTLE if little else EXPLICIT_BIG
