"""Re-reads a store: checks that every file is a readable Part 10 file, in its right place, and as it was received.

Of what was kept because it can't be filed, the Data Set may be anything: only its framing, its name and its checksum
are checked.

Invariant: it only reads. It reports what is wrong and what can be done about it, and changes nothing itself. It may run
beside a daemon: files that appear, disappear or are replaced meanwhile aren't reported, nor are the temporary files of
running processes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from dicomd.layouts import SUFFIX, UNFILED
from dicomd.store import checksum, temporary
from dicomd.store.errors import DataSetUnreadable, LayoutElementInvalid
from dicomd.store.folders import OWN_FOLDER, StoreFolders
from dicomd.store.head import HeadScanner, wanted_elements
from dicomd.store.layout import Layout
from dicomd.store.part10 import Header, read_header
from dicomd.store.path_values import (
    PathValues,
    ae_title_value,
    may_be_a_date,
    may_be_a_peer,
    may_be_a_title,
    may_be_of_title,
    modality_value,
    study_date_value,
)
from dicomd.store.unfiled import unfiled_place
from dicomd.store.whole import damage
from dicomd.tags import (
    MODALITY,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_DATE,
    STUDY_INSTANCE_UID,
)
from dicomd.uids import PADDING, uid_from_value

_STEP: Final = 1 << 20
_HEAD_STEP: Final = 1 << 16
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_AGAIN: Final = "have it sent again, or restore it from a backup"
_ASIDE: Final = "move it out of the store"


class Finding(NamedTuple):
    """The result for one file, with its path below the root and its size in bytes.

    ``problem`` is what is wrong, "" if nothing is, and ``advice`` what can be done about it. ``compared`` says whether
    there was a checksum to compare with, and ``unfiled`` whether it was kept because it can't be filed.
    """

    path: str
    size: int
    problem: str = ""
    advice: str = ""
    compared: bool = False
    unfiled: bool = False


class _ProblemError(Exception):
    """What is wrong with a file, and what can be done about it."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.advice = advice


def survey(root: Path) -> int:
    """Return how many bytes there are to read below ``root``, an estimate: files may appear or disappear later."""
    size = 0
    for entry, _ in _entries(root, ""):
        if isinstance(entry, os.DirEntry):
            with contextlib.suppress(OSError):  # already deleted; ``verify`` reports anything else
                size += entry.stat(follow_symlinks=False).st_size
    return size


def verify(root: Path, layout: Layout) -> Iterator[Finding]:
    """Check every file of the store at ``root``, and look for temporary files left by a crash."""
    folders = StoreFolders(root)
    try:
        if not folders.sentinel.is_file():
            yield Finding(f"{OWN_FOLDER}/store", 0, "the store's sentinel is missing", "is its file system mounted?")
        remains = temporary.remains(folders.tmp, folders.locks)
    except OSError as error:
        yield Finding(str(Path(OWN_FOLDER, "tmp")), 0, f"can't be read: {error.strerror}", "check its permissions")
        remains = []
    for name in remains:
        if temporary.may_be_an_instance(folders.tmp / name):
            advice = "move it to where it belongs, if nothing is there"
            yield Finding(str(Path(OWN_FOLDER, "tmp", name)), 0, "an instance left here by a crash", advice)
            continue
        yield Finding(str(Path(OWN_FOLDER, "tmp", name)), 0, "left by a crash", "the next start of dicomd removes it")
    for entry, relative in _entries(root, ""):
        if isinstance(entry, OSError):
            yield Finding(relative, 0, f"can't be read: {entry.strerror}", "check its permissions and the disk")
        else:
            try:
                yield _look(entry, relative, layout)
            except FileNotFoundError:
                continue  # deleted or moved in the meantime
            except OSError as error:
                yield _unreadable(relative, 0, error)


def _entries(root: Path, relative: str) -> Iterator[tuple[os.DirEntry[str] | OSError, str]]:
    """Yield every file below a folder, by name, with its path below ``root``; also errors for unreadable folders."""
    try:
        with os.scandir(root / relative) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield error, relative or "."
        return
    for entry in entries:
        path = f"{relative}/{entry.name}" if relative else entry.name
        if path == OWN_FOLDER:
            continue
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError as error:
            yield error, path
            continue
        if is_folder:
            yield from _entries(root, path)
        else:
            yield entry, path


def _look(entry: os.DirEntry[str], relative: str, layout: Layout) -> Finding:
    status = entry.stat(follow_symlinks=False)
    size = status.st_size
    if not stat.S_ISREG(status.st_mode) or not relative.endswith(SUFFIX):
        return Finding(relative, size, "not a file of dicomd's", _ASIDE)
    try:
        with os.fdopen(os.open(entry.path, _FLAGS), "rb", buffering=0) as file:
            try:
                compared = _verify_file(file, relative, layout)
                return Finding(relative, size, compared=compared, unfiled=_is_unfiled(relative))
            except _ProblemError as error:
                return Finding(relative, size, error.problem, error.advice)
    except FileNotFoundError:
        raise
    except OSError as error:
        return _unreadable(relative, size, error)


def _unreadable(relative: str, size: int, error: OSError) -> Finding:
    return Finding(relative, size, f"can't be read: {error.strerror}", f"check the disk; {_AGAIN}")


def _verify_file(file: BinaryIO, relative: str, layout: Layout) -> bool:
    """Check a file; return whether a checksum was compared. Raises ``_ProblemError``, and OSError if reading fails."""
    header = read_header(file.fileno())
    recorded = checksum.read(file.fileno())
    actual = _read_whole(file)
    if recorded is not None and actual != recorded:
        raise _ProblemError(
            "it isn't what was received: the checksum differs",
            f"{_AGAIN}; if it was edited on purpose, `setfattr -x {checksum.ATTRIBUTE} FILE` removes the checksum",
        )
    if header is None:
        raise _ProblemError("not a Part 10 file", _AGAIN)
    if _is_unfiled(relative):
        _verify_unfiled_place(header, relative)
        return recorded is not None
    _verify_place(file.fileno(), header, relative, layout)
    if recorded is None and (problem := damage(file.fileno(), header.data_set_offset, header.transfer_syntax_uid)):
        raise _ProblemError(problem, _AGAIN)
    return recorded is not None


def _is_unfiled(relative: str) -> bool:
    return relative.startswith(f"{UNFILED}/")


def _read_whole(file: BinaryIO) -> bytes:
    found = checksum.Checksum()
    while data := file.read(_STEP):
        found.update(data)
    return found.digest()


def _verify_place(fd: int, header: Header, relative: str, layout: Layout) -> None:
    scanner = HeadScanner(header.transfer_syntax_uid, wanted=wanted_elements(layout.optional_elements))
    at = header.data_set_offset
    try:
        while not scanner.complete:
            data = os.pread(fd, _HEAD_STEP, at)
            if data:
                scanner.feed(data)
                at += len(data)
            else:
                scanner.finish()
    except DataSetUnreadable as error:
        raise _ProblemError(f"its Data Set can't be read: {error.message}", _AGAIN) from None
    values = {tag: value.rstrip(PADDING) for tag, value in scanner.values.items()}
    for tag, expected in ((SOP_CLASS_UID, header.sop_class_uid), (SOP_INSTANCE_UID, header.sop_instance_uid)):
        if values.get(tag) and values[tag] != expected.encode("ascii", "replace"):
            raise _ProblemError(
                "its File Meta Information names another SOP Class or Instance than its Data Set", _AGAIN
            )
    uids = {tag: uid_from_value(values.get(tag, b"")) for tag in (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)}
    uids[SOP_INSTANCE_UID] = uid_from_value(header.sop_instance_uid.encode("ascii", "replace"))
    if any(uids[tag] is None for tag in layout.elements):
        raise _ProblemError("a UID that its path needs is missing or invalid", _ASIDE)
    place = layout.place(
        uids[STUDY_INSTANCE_UID] or "",
        uids[SERIES_INSTANCE_UID] or "",
        uids[SOP_INSTANCE_UID] or "",
        _values(header, scanner.values, layout.values_in(relative)),
    )
    if not place.is_of(relative):
        raise _ProblemError(
            f"it belongs at {place.path}", "move it there, unless that name is taken; or was storage.layout changed?"
        )


def _verify_unfiled_place(header: Header, relative: str) -> None:
    try:
        in_place = unfiled_place(header.sop_instance_uid).is_of(relative)
    except LayoutElementInvalid:
        in_place = False
    if not in_place:
        raise _ProblemError("it isn't named after its SOP Instance UID, as unfiled instances are", _ASIDE)


def _values(header: Header, elements: Mapping[int, bytes], in_path: Mapping[str, str]) -> PathValues:
    """Return the values that the file should have in its path, where what is ``in_path`` is right if it may be.

    Where only the path could tell a value, and what stands there can't be one, it is the placeholder itself.
    The `elements` have their padding, since one that is too long with it counts as absent.
    """
    peer, received = in_path.get("Peer", ""), in_path.get("ReceivedDate", "")
    return PathValues(
        _title(header.called_ae_title, in_path.get("CalledAETitle", ""), "{CalledAETitle}"),
        _title(header.calling_ae_title, in_path.get("CallingAETitle", ""), "{CallingAETitle}"),
        peer if may_be_a_peer(peer) else "{Peer}",
        modality_value(elements.get(MODALITY, b"")),
        study_date_value(elements.get(STUDY_DATE, b"")),
        received if may_be_a_date(received) else "{ReceivedDate}",
    )


def _title(in_file: str | None, in_path: str, placeholder: str) -> str:
    if in_file is None:  # as other writers leave it
        return in_path if may_be_a_title(in_path) else placeholder
    return in_path if may_be_of_title(in_path, in_file) else ae_title_value(in_file)
