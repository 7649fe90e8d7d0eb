"""Sends many files by C-STORE over as few Associations as possible.

Invariant: the Data Set's bytes are sent as they are in the file. So each pair of SOP Class and Transfer Syntax gets a
Presentation Context of its own, and a file whose pair the peer doesn't accept isn't sent, never converted.

The command names the UIDs of the Data Set. pynetdicom takes them from the File Meta Information, so a file without one,
or with other UIDs in it, is sent through a temporary copy that has the right one.
"""

import contextlib
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config  # its settings are documented under this name (reference, Configuration Options)
from pynetdicom.presentation import build_context

from dicomd.cli.files import InstanceFile
from dicomd.cli.requestor import (
    AssociationFailedError,
    RemoteAE,
    Requestor,
    context_in_words,
    printable,
    status_in_words,
)
from dicomd.statuses import Status

_CONTEXTS = 128  # Presentation Context IDs are the odd numbers of a byte (PS3.8 §9.3.2.2)
_WARNING = 0xB  # the first digit of the statuses that mean: stored, with a warning (PS3.7 Annex C)


@dataclass(frozen=True, slots=True)
class SendResult:
    """The outcome for one file. `why` is the failure, or the peer's warning about a stored instance, else ""."""

    file: InstanceFile
    stored: bool
    why: str = ""


def store_all(peer: RemoteAE, files: Sequence[InstanceFile]) -> Iterator[SendResult]:
    """Send the files and yield one result for each.

    If an Association ends early, one file fails and a new Association sends the rest. If none can be established, all
    remaining files fail for that reason.
    """
    with _bytes_as_they_are():
        for batch in _batches(files):
            waiting = deque(batch)
            while waiting:
                try:
                    yield from _one_association(peer, waiting)
                except AssociationFailedError as error:
                    yield from (SendResult(file, stored=False, why=str(error)) for file in waiting)
                    waiting.clear()


def _one_association(peer: RemoteAE, waiting: deque[InstanceFile]) -> Iterator[SendResult]:
    """Yield results until all files are sent or the Association ends. Takes at least one file from `waiting`."""
    pairs = dict.fromkeys(file.context for file in waiting)
    with Requestor(peer, [build_context(sop_class, syntax) for sop_class, syntax in pairs]) as requestor:
        while waiting:
            file = waiting.popleft()
            result, usable = _store(requestor, file)
            yield result
            if not usable:
                return


def _store(requestor: Requestor, file: InstanceFile) -> tuple[SendResult, bool]:
    """Send one file; return its result, and whether the Association can still be used."""
    association = requestor.association
    if refusal := _refusal(requestor, file):
        return SendResult(file, stored=False, why=refusal), True
    try:
        with _sendable(file) as path:
            answer = association.send_c_store(path)
    except (OSError, ValueError, AttributeError, RuntimeError) as error:
        # the file vanished or changed, perhaps halfway through; or the Association had already ended
        why = requestor.why_ended() if isinstance(error, RuntimeError) else printable(str(error))
        association.abort()
        return SendResult(file, stored=False, why=why), False
    if "Status" not in answer:
        why = requestor.why_ended()
        association.abort()
        return SendResult(file, stored=False, why=why), False
    status = int(answer.Status)
    if status == Status.SUCCESS:
        return SendResult(file, stored=True), True
    comment = printable(str(answer.get("ErrorComment") or ""))
    why = f"{status_in_words(status)}{': ' + comment if comment else ''}"
    return SendResult(file, stored=status >> 12 == _WARNING, why=why), True


@contextlib.contextmanager
def _sendable(file: InstanceFile) -> Iterator[Path]:
    """Provide the file itself, or a temporary copy whose File Meta Information agrees with the Data Set.

    The copy has no name, so that nothing of a patient is left behind, however the process ends. Raises OSError.
    """
    if file.head.is_sendable:
        yield file.path
        return
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(file.head.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(file.head.sop_instance_uid)
    meta.TransferSyntaxUID = UID(file.head.transfer_syntax_uid)
    with tempfile.TemporaryFile() as copy, file.path.open("rb") as original:
        copy.write(bytes(128) + b"DICM")
        write_file_meta_info(DicomIO(copy), meta, enforce_standard=False)
        original.seek(file.head.data_set_offset)
        shutil.copyfileobj(original, copy)
        copy.flush()
        yield Path(f"/proc/self/fd/{copy.fileno()}")


def _refusal(requestor: Requestor, file: InstanceFile) -> str:
    """Say why the peer doesn't accept this kind of instance; "" if it does."""
    association = requestor.association
    for context in association.accepted_contexts:
        if (context.abstract_syntax, context.transfer_syntax[0]) == file.context:
            return ""
    result = next(
        (
            context.result
            for context in association.rejected_contexts
            if (context.abstract_syntax, context.transfer_syntax[0]) == file.context
        ),
        None,
    )
    sop_class, syntax = (UID(uid).name for uid in file.context)
    return f"the peer refuses {sop_class} in {syntax}: {context_in_words(result)}"


def _batches(files: Iterable[InstanceFile]) -> Iterator[list[InstanceFile]]:
    """Group the files so that each group needs at most 128 Presentation Contexts."""
    by_context: dict[tuple[str, str], list[InstanceFile]] = {}
    for file in files:
        by_context.setdefault(file.context, []).append(file)
    pairs = list(by_context)
    for start in range(0, len(pairs), _CONTEXTS):
        yield [file for pair in pairs[start : start + _CONTEXTS] for file in by_context[pair]]


@contextlib.contextmanager
def _bytes_as_they_are() -> Iterator[None]:
    """Have pynetdicom stream the files instead of decoding and re-encoding them; silence warnings about values."""
    before = _config.STORE_SEND_CHUNKED_DATASET
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before
