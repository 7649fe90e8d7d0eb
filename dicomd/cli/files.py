"""Finds the files to send among the given files and folders, and what each of them contains.

Only the beginning of each file is read. A file that can't be sent is reported with the reason; nothing raises.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomd.cli.file_head import FileHead, NotDicomError, read_file_head
from dicomd.uids import uid_from_value

_DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: a table of contents, never sent
_LONGEST_SHOWN = 80  # characters of a UID: enough to show that it is too long


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """A file that can be sent. `size` is that of the whole file in bytes; `head` is what its beginning says."""

    path: Path
    size: int
    head: FileHead

    @property
    def context(self) -> tuple[str, str]:
        """The (Abstract Syntax, Transfer Syntax) pair that a Presentation Context must offer."""
        return self.head.sop_class_uid, self.head.transfer_syntax_uid


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that isn't sent, and why. `broken` means that it couldn't be read, which counts as a failure."""

    path: Path
    why: str
    broken: bool = False


def find(paths: Iterable[Path]) -> Iterator[InstanceFile | Skipped]:
    """Yield every given file, and every file below the given folders, by name. Links to folders aren't followed."""
    for path in paths:
        if path.is_dir():
            yield from _below(path)
        else:
            yield classify(path)


def _below(folder: Path) -> Iterator[InstanceFile | Skipped]:
    unreadable: list[Skipped] = []

    def note(error: OSError) -> None:
        unreadable.append(Skipped(Path(error.filename or folder), error.strerror or str(error), broken=True))

    for found, folders, names in os.walk(folder, onerror=note):
        folders.sort()
        for name in sorted(names):
            yield classify(Path(found, name))
    yield from unreadable


def classify(path: Path) -> InstanceFile | Skipped:
    """Classify one file. Never raises."""
    try:
        if not path.is_file():
            return Skipped(path, "not a file" if path.exists() else "no such file", broken=not path.exists())
        size = path.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of unusual values, which are sent unchanged
            with path.open("rb") as file:
                head = read_file_head(file)
    except NotDicomError:
        return Skipped(path, "not a DICOM file")
    except OSError as error:
        return Skipped(path, error.strerror or str(error), broken=True)
    except Exception as error:  # pydicom may raise anything for bytes that merely begin like DICOM
        return Skipped(path, f"not a readable DICOM file: {error}", broken=True)
    if not head.transfer_syntax_uid:
        why = "it has no Transfer Syntax UID, and its Data Set doesn't show which encoding it has"
        return Skipped(path, why, broken=True)
    if head.sop_class_uid == _DICOMDIR:
        return Skipped(path, "a DICOMDIR")
    if not (head.sop_class_uid and head.sop_instance_uid):
        return Skipped(path, "neither its Data Set nor its File Meta has a SOP Class and SOP Instance UID", broken=True)
    for uid in (head.sop_class_uid, head.sop_instance_uid, head.transfer_syntax_uid):
        if uid_from_value(uid.encode()) is None:
            return Skipped(path, f"a UID in it isn't valid: {uid[:_LONGEST_SHOWN]!a}", broken=True)
    return InstanceFile(path, size, head)
