"""The DICOM files in pydicom's package, each as an instance to send or with the reason why it can't be sent.

Invariant: Data Sets are sent byte for byte as they are in the files, and no file is left out silently.
"""

from __future__ import annotations

import gzip
import warnings
from dataclasses import dataclass
from functools import cache
from io import BytesIO
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
    """A DICOM file. `instance` is None if an honest sender can't send it, and `why_not` gives the reason.

    `attempt` is what a sender would send that takes the UIDs which the Data Set lacks from the File Meta Information,
    or sends none.
    """

    path: Path
    name: str
    instance: Instance | None
    why_not: str
    has_study_and_series: bool
    attempt: Instance


@cache
def sample_files() -> tuple[SampleFile, ...]:
    """All DICOM files in pydicom's package, sorted by name."""
    root = Path(pydicom.data.__file__).parent
    return tuple(
        read_sample(path, str(path.relative_to(root)))
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in _NOT_DICOM and path.name not in _NOT_DICOM_NAMES
    )


def sample(name: str) -> Path:
    """The path of the file with this name."""
    return next(file.path for file in sample_files() if file.path.name == name)


def read_sample(path: Path, name: str) -> SampleFile:
    """Read a file, with or without preamble and File Meta Information; one compressed with gzip is decompressed."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    with warnings.catch_warnings():  # pydicom warns about most of them, which is what they are for
        warnings.simplefilter("ignore")
        ds = dcmread(BytesIO(content), force=True)
        sop_class, sop_instance = _text(ds, "SOPClassUID"), _text(ds, "SOPInstanceUID")
        has_both = bool(_text(ds, "StudyInstanceUID") and _text(ds, "SeriesInstanceUID"))
        transfer_syntax = _text(ds.file_meta, "TransferSyntaxUID") or _found_encoding(ds)
        in_meta = [_text(ds.file_meta, f"MediaStorageSOP{which}UID") for which in ("Class", "Instance")]
    body = split_part10(content)[2] if content[128:132] == b"DICM" else content
    attempt = Instance(sop_class or in_meta[0], sop_instance or in_meta[1], transfer_syntax, body)
    if attempt.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
        return SampleFile(path, name, None, "a DICOMDIR, whose SOP Class is for media only", has_both, attempt)
    if not (sop_class and sop_instance):
        # A C-STORE-RQ needs both UIDs (PS3.7 Table 9.3-1), and an honest sender can't invent them. Those of the File
        # Meta Information aren't in the Data Set, which is refused without them.
        lacking = "no SOP Class UID or no SOP Instance UID in its Data Set"
        return SampleFile(path, name, None, lacking, has_both, attempt)
    return SampleFile(path, name, attempt, "", has_both, attempt)


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "")


def _found_encoding(ds: Dataset) -> str:
    implicit, little = ds.original_encoding
    if implicit:
        return IMPLICIT_LITTLE
    return EXPLICIT_LITTLE if little else EXPLICIT_BIG
