"""Finds the files to send among the given files and folders, and what each of them contains.

Only the File Meta Information is read (PS3.10 §7.1). A file that isn't a Part 10 file is reported with the reason; it
never raises.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

_DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: a table of contents, never sent


@dataclass(frozen=True, slots=True)
class Part10File:
    """A file that can be sent. `size` is that of the whole file in bytes."""

    path: Path
    size: int
    sop_class_uid: str
    transfer_syntax_uid: str

    @property
    def context(self) -> tuple[str, str]:
        """The (Abstract Syntax, Transfer Syntax) pair that a Presentation Context must offer."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that isn't sent, and why. `broken` means that it couldn't be read, which counts as a failure."""

    path: Path
    why: str
    broken: bool = False


def find(paths: Iterable[Path]) -> Iterator[Part10File | Skipped]:
    """Yield every given file, and every file below the given folders, by name. Links to folders aren't followed."""
    for path in paths:
        if path.is_dir():
            yield from _below(path)
        else:
            yield classify(path)


def _below(folder: Path) -> Iterator[Part10File | Skipped]:
    unreadable: list[Skipped] = []

    def note(error: OSError) -> None:
        unreadable.append(Skipped(Path(error.filename or folder), error.strerror or str(error), broken=True))

    for found, folders, names in os.walk(folder, onerror=note):
        folders.sort()
        for name in sorted(names):
            yield classify(Path(found, name))
    yield from unreadable


def classify(path: Path) -> Part10File | Skipped:
    """Classify one file. Never raises."""
    try:
        if not path.is_file():
            return Skipped(path, "not a file" if path.exists() else "no such file", broken=not path.exists())
        size = path.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of unusual values, which are sent unchanged
            meta = read_file_meta_info(path)
        sop_class, instance, syntax = (
            str(meta.get(keyword) or "")
            for keyword in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        )
    except InvalidDicomError:
        return Skipped(path, "not a DICOM file")
    except OSError as error:
        return Skipped(path, error.strerror or str(error), broken=True)
    except Exception as error:  # pydicom may raise anything for bytes that merely begin like DICOM
        return Skipped(path, f"not a readable DICOM file: {error}", broken=True)
    if not (sop_class and instance and syntax):
        why = "its File Meta Information lacks a SOP Class, SOP Instance or Transfer Syntax UID"
        return Skipped(path, why, broken=True)
    if sop_class == _DICOMDIR:
        return Skipped(path, "a DICOMDIR")
    return Part10File(path, size, sop_class, syntax)
