"""Writes one instance into the store: a temporary file that grows with the Data Set until it is published.

Invariant: whatever happens, what remains is either a complete file under a final name or nothing. Everything that can
be checked before the last byte is checked as soon as it is known, and work that need not delay the answer is left to
``release``.
"""

from __future__ import annotations

import os
import time
from typing import Final

from dicomd.store import checksum
from dicomd.store.checksum import Checksum
from dicomd.store.directories import close_quietly
from dicomd.store.duplicates import Candidate
from dicomd.store.errors import (
    DataSetMismatch,
    DataSetUnreadable,
    LayoutElementInvalid,
    ObjectTooLarge,
    StoreError,
    from_oserror,
)
from dicomd.store.failure_sink import FailureSink
from dicomd.store.head import HeadScanner
from dicomd.store.head_templates import cache_for
from dicomd.store.layout import Place, refuse_uid
from dicomd.store.part10 import header
from dicomd.store.path_values import path_values, received_date_value
from dicomd.store.publish import Publisher
from dicomd.store.room import INSTANCE, SMALL, Room
from dicomd.store.settings import StoreSettings
from dicomd.store.temporary import TemporaryFiles, unlink_quietly
from dicomd.store.types import InstanceIdentity, Refusal, Stored, Subject
from dicomd.store.unfiled import Unfiled, unfiled_place
from dicomd.tags import SERIES_INSTANCE_UID, SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from dicomd.uids import PADDING, recurring_uid_from_value, uid_from_value

_IOV_MAX: Final = 1024
_FOLIO: Final = 32 << 10
"""Bytes of the largest folios that Linux keeps ready for each processor (PAGE_ALLOC_COSTLY_ORDER). It uses the largest
ones that the length and the position of a write allow. In fresh memory, larger ones made a write take up to three times
as long; at an arbitrary position, a write used five small ones and was a quarter slower."""
_AT_ONCE: Final = 2 * _FOLIO
"""Bytes written at once, up to an odd multiple of `_FOLIO` in the file, so that each write uses two such folios."""
_WRITE_BACK: Final = 8 << 20
_STAT_BLOCK: Final = 512  # bytes of a block as stat(2) counts them


class FileWriter:
    """Writes one instance of a ``FileStore`` into one of its ``temporary`` files and has it published.

    For one thread at a time. Room for it is claimed in ``room``, and ``failures`` is told why it could not be stored.
    """

    def __init__(
        self,
        identity: InstanceIdentity,
        settings: StoreSettings,
        publisher: Publisher,
        unfiled: Unfiled,
        temporary: TemporaryFiles,
        room: Room,
        failures: FailureSink,
        *,
        checksums: bool,
    ) -> None:
        """With `checksums`, one is recorded, which the file system must be able to keep."""
        self._identity = identity
        self._settings = settings
        self._publisher = publisher
        self._unfiled = unfiled
        self._refusal: Refusal | None = None  # why the instance can't be filed, if it is kept nevertheless
        self._temporary = temporary
        self._room = room
        self._failures = failures
        self._checksum = Checksum() if checksums else None
        self._scanner = HeadScanner(
            identity.transfer_syntax_uid,
            wanted=settings.wanted,
            lenient=unfiled.keeps,
            templates=cache_for(
                identity.calling_ae_title,
                identity.sop_class_uid,
                identity.transfer_syntax_uid,
                settings.wanted,
            ),
        )
        self._received_date = received_date_value() if settings.layout.has_date else ""
        self._released = False
        self._fd = -1
        self._path = ""
        self._header = b""
        self._size = 0  # of the Data Set
        self._end = 0  # of the file
        self._written_back = 0
        self._claimed = 0  # bytes of room that aren't settled
        self._room_for = 0  # bytes of the Data Set that there is room for

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Append ``fragments``, ``size`` bytes in all. Raises a ``StoreError``, after which nothing is left."""
        try:
            self._size += size
            if self._size > self._settings.max_object_size:
                self._refuse_size()
            if not self._scanner.complete and self._refusal is None:
                self._scan(fragments)
            if self._fd < 0:
                self._begin(fragments, size)
            elif self._size <= self._room_for:
                self._append(fragments, size)
            else:
                self._grow(fragments, size)
        except BaseException as error:
            self._clean_up_after(error)
            raise

    @property
    def subject(self) -> Subject:
        """The patient and study of the instance, as far as they have been read."""
        return Subject(self._scanner.patient_id, self._scanner.values.get(STUDY_INSTANCE_UID, b""))

    def commit(self) -> Stored:
        """Publish the instance. Raises a ``StoreError``, after which nothing is left."""
        try:
            if not self._scanner.complete and self._refusal is None:
                self._finish_scan()
            place = self._destination()
            if self._fd < 0:
                self._begin([], 0)
            self._record_checksum()
            sync_seconds = self._sync()
            candidate = Candidate(
                self._fd,
                self._path,
                self._identity.transfer_syntax_uid,
                len(self._header),
                self._size,
                sync_seconds,
            )
            if self._refusal is None:
                return self._publisher.publish(candidate, place)
            return self._unfiled.publish(candidate, place, self._refusal)
        except BaseException as error:
            self._clean_up_after(error)
            raise

    def release(self) -> None:
        """Remove the temporary name and close the file."""
        self._released = True
        path, self._path = self._path, ""
        fd, self._fd = self._fd, -1  # before the close: a number closed twice may be another file's by then
        if path:
            unlink_quietly(path)
        if fd >= 0:
            close_quietly(fd)
        if self._claimed:
            self._room.settle(self._claimed)
            self._claimed = 0

    # An unpublished instance has no other name, and of a published one this name is all that is left to remove.
    discard = release

    def _clean_up_after(self, error: BaseException) -> None:
        self.discard()
        if isinstance(error, StoreError):
            self._failures.instance_failed(error)

    def _refuse_size(self) -> None:
        raise ObjectTooLarge("Object is larger than this receiver accepts", operation="write")

    def _scan(self, fragments: list[memoryview]) -> None:
        scanner = self._scanner
        try:
            for fragment in fragments:
                if scanner.feed(fragment):
                    break
            self._check_identity()
        except DataSetUnreadable as error:
            self._keep_unreadable(error)

    def _finish_scan(self) -> None:
        try:
            self._scanner.finish()
            self._check_identity()
        except DataSetUnreadable as error:
            self._keep_unreadable(error)

    def _check_identity(self) -> None:
        """Refuse a Data Set whose UIDs differ from the command's (PS3.4 §B.2.3, A9xx), or that has none.

        Without them nobody can tell whose bytes these are, and each is required in every instance (PS3.3 §C.12.1).
        """
        values = self._scanner.values
        identity = self._identity
        if (
            values.get(SOP_INSTANCE_UID, b"").rstrip(PADDING) == identity.sop_instance_uid.encode()
            and values.get(SOP_CLASS_UID, b"").rstrip(PADDING) == identity.sop_class_uid.encode()
        ):
            return
        self._refuse_other_identity()
        if not self._scanner.complete:
            return  # more may come
        if not self._size:
            raise DataSetUnreadable("Data Set is empty")
        missing = SOP_INSTANCE_UID if self._found(SOP_CLASS_UID) else SOP_CLASS_UID
        raise DataSetUnreadable("Data Set has no SOP Class or SOP Instance UID", element=missing)

    def _refuse_other_identity(self) -> None:
        """Refuse the Data Set if it has another UID than the command, whatever else is wrong with it."""
        for tag, expected in (
            (SOP_CLASS_UID, self._identity.sop_class_uid),
            (SOP_INSTANCE_UID, self._identity.sop_instance_uid),
        ):
            found = self._found(tag)
            if found and found != expected.encode():
                uid = uid_from_value(found) or ""
                raise DataSetMismatch("UID in the Data Set differs from the command's", element=tag, found=uid)

    def _keep_unreadable(self, error: DataSetUnreadable) -> None:
        """Have the instance kept unfiled, or raise the error; always if the Data Set names another instance, too."""
        self._refuse_other_identity()
        if error.element in (SOP_CLASS_UID, SOP_INSTANCE_UID) and self._found(error.element):
            raise error  # this UID is the command's, but there is a second one, or it goes on behind its padding
        self._refusal = self._unfiled.admit(self._scanner.fault or error)

    def _found(self, tag: int) -> bytes:
        """Return the value read of an element without its padding, b"" if there is none so far."""
        return self._scanner.values.get(tag, b"").rstrip(PADDING)

    def _destination(self) -> Place:
        """Return where the instance belongs, or, with a ``_refusal``, where it is kept because it can't be filed."""
        if self._scanner.fault is not None and self._refusal is None:
            self._refusal = self._unfiled.admit(self._scanner.fault)
        if self._refusal is None:
            try:
                return self._place()
            except LayoutElementInvalid as error:
                self._refusal = self._unfiled.admit(error)
        return unfiled_place(self._identity.sop_instance_uid)

    def _place(self) -> Place:
        layout = self._settings.layout
        identity = self._identity
        found = self._scanner.values
        study = series = ""
        if STUDY_INSTANCE_UID in layout.elements:
            study = recurring_uid_from_value(found.get(STUDY_INSTANCE_UID, b"")) or refuse_uid(STUDY_INSTANCE_UID)
        if SERIES_INSTANCE_UID in layout.elements:
            series = recurring_uid_from_value(found.get(SERIES_INSTANCE_UID, b"")) or refuse_uid(SERIES_INSTANCE_UID)
        instance = uid_from_value(identity.sop_instance_uid.encode("ascii", "replace")) or refuse_uid(SOP_INSTANCE_UID)
        values = path_values(identity, found, self._received_date) if layout.has_values else None
        return layout.place(study, series, instance, values)

    def _begin(self, fragments: list[memoryview], size: int) -> None:
        if self._released:
            raise ValueError("the writer has been released or discarded")
        if size <= SMALL:
            self._claimed = self._room.claim_piece()
        if not self._claimed:
            self._claim_room(size)
        self._fd, self._path = self._temporary.create()
        self._header = header(self._identity)
        self._append([memoryview(self._header), *fragments], len(self._header) + size)

    def _grow(self, fragments: list[memoryview], size: int) -> None:
        """Append more than there is room for."""
        self._claim_room(size)
        self._append(fragments, size)
        if self._size < self._room_for:
            return
        room = self._room
        room.settle(self._claimed - INSTANCE)
        self._claimed = INSTANCE
        if room.preallocates:
            try:
                self._room_for = os.fstat(self._fd).st_blocks * _STAT_BLOCK - len(self._header)
            except OSError as error:
                raise from_oserror(error, "write") from error

    def _claim_room(self, size: int) -> None:
        """Claim room for the next bytes. The room for what an instance costs besides its bytes is claimed only once."""
        room = self._room
        besides = INSTANCE
        if self._claimed:
            room.settle(self._claimed - INSTANCE)
            self._claimed = INSTANCE
            besides = 0
        claimed, granted = room.claim(size + besides, self._end)
        self._claimed += claimed
        self._room_for = self._size - size + granted - besides

    def _append(self, fragments: list[memoryview], size: int) -> None:
        if self._checksum is not None:
            for fragment in fragments:
                self._checksum.update(fragment)
        room = _AT_ONCE - (self._end + _FOLIO) % _AT_ONCE
        self._end += size
        try:
            if size <= room and len(fragments) <= _IOV_MAX:
                self._write(fragments, size)
            else:
                self._write_in_pieces(fragments, room)
            if self._end - self._written_back >= _WRITE_BACK and self._settings.synced:
                self._start_write_back()
        except OSError as error:
            raise from_oserror(error, "write") from error

    def _write_in_pieces(self, fragments: list[memoryview], room: int) -> None:
        """Write no more fragments at once than the kernel accepts, and at most `room` bytes, then `_AT_ONCE`."""
        piece: list[memoryview] = []
        size = 0  # of the piece
        for fragment in fragments:
            if len(piece) == _IOV_MAX:
                self._write(piece, size)
                room = room - size or _AT_ONCE
                piece = []
                size = 0
            begin = 0
            end = len(fragment)
            while size + end - begin > room:
                cut = begin + room - size
                piece.append(fragment[begin:cut])
                self._write(piece, room)
                room = _AT_ONCE
                piece = []
                size = 0
                begin = cut
            piece.append(fragment[begin:])
            size += end - begin
        self._write(piece, size)

    def _write(self, fragments: list[memoryview], size: int) -> None:
        written = os.writev(self._fd, fragments)
        if written != size:
            self._write_rest(fragments, written)

    def _start_write_back(self) -> None:
        """Make the kernel begin to write what has arrived, so that a large object's sync doesn't have to write it all.

        This is what POSIX_FADV_DONTNEED does to dirty pages, which stay readable from memory because they are dirty.
        For 512 MiB it halved the time until the commit.
        """
        os.posix_fadvise(self._fd, self._written_back, self._end - self._written_back, os.POSIX_FADV_DONTNEED)
        self._written_back = self._end

    def _write_rest(self, rest: list[memoryview], written: int) -> None:
        """Write what remains after a short write."""
        while rest:
            while rest and written >= len(rest[0]):
                written -= len(rest[0])
                rest = rest[1:]
            if rest:
                rest = [rest[0][written:], *rest[1:]]
                written = os.writev(self._fd, rest)

    def _record_checksum(self) -> None:
        if self._checksum is None:
            return
        try:
            checksum.record(self._fd, self._checksum)
        except OSError as error:
            raise from_oserror(error, "setxattr") from error

    def _sync(self) -> float:
        if not self._settings.synced:
            return 0.0
        began = time.perf_counter()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise from_oserror(error, "fsync") from error
        return time.perf_counter() - began
