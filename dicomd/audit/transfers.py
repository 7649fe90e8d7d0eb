"""Collects what one Association is audited for: its instances, summed up by patient, and whether it was refused.

There is one message for each patient and Association, two if some instances were stored and others not (PS3.15 A.5.2
wants them apart). What is summed up is bounded: for a peer that sends more than `MOST_ENTRIES`, there is one message
for every so many of them. Invariant: what was stored is in the journal, if there is one, before `instance` returns.
"""

from __future__ import annotations

from collections.abc import Callable

from dicomd.audit.events import Action, Event, InstancesTransferred, Node, SecurityAlert, combined, now, studies_of
from dicomd.audit.journal import Entry, Journal, JournalFile

MOST_ENTRIES = 50
"""SOP Classes, in all their studies, that are summed up before they are reported: every syslog receiver has to accept
32 KiB (PS3.15 A.6), and an entry has at most 600 bytes."""


class AssociationAudit:
    """Collects for one Association, in its thread; `record` accepts each event without waiting, and never raises."""

    __slots__ = ("_address", "_called", "_calling", "_counts", "_file", "_journal", "_record")

    def __init__(self, record: Callable[[Event], None], address: str, journal: Journal | None = None) -> None:
        self._record, self._address, self._journal = record, address, journal
        self._calling = self._called = ""
        self._counts: dict[tuple[bool, Entry], int] = {}
        self._file: JournalFile | None = None

    def requested(self, calling_ae_title: str, called_ae_title: str) -> None:
        """Note the AE Titles of an A-ASSOCIATE-RQ."""
        self._calling, self._called = calling_ae_title, called_ae_title

    def refused(self, reason: str) -> None:
        """Report that the peer was refused access; `reason` is in dicomd's own words."""
        self._record(SecurityAlert(now(), Node(self._calling, self._address), reason))

    def instance(
        self, patient_id: bytes, study_instance_uid: bytes, sop_class_uid: str, action: Action, *, stored: bool
    ) -> None:
        """Count an instance; values are as in its Data Set, empty if it wasn't read that far.

        One that was refused before anything of it was read has no known patient or study, and is not reported.
        """
        if not (stored or patient_id or study_instance_uid):
            return
        entry = Entry(_text(patient_id), _text(study_instance_uid), sop_class_uid, action)
        self._counts[stored, entry] = self._counts.get((stored, entry), 0) + 1
        if stored and self._journal is not None:
            self._note(self._journal, entry)
        if len(self._counts) >= MOST_ENTRIES:
            self.ended()

    def ended(self) -> None:
        """Report what has been summed up."""
        counts, self._counts = self._counts, {}
        file, self._file = self._file, None
        patients: dict[tuple[bool, str], list[tuple[Entry, int]]] = {}
        for (stored, entry), count in counts.items():
            patients.setdefault((stored, entry.patient_id), []).append((entry, count))
        delivered = None
        if file is not None and self._journal is not None:
            file.close()
            delivered = self._journal.journaled(file.path, sum(stored for stored, _ in patients)).delivered
        for (stored, patient_id), entries in patients.items():
            self._record(
                InstancesTransferred(
                    now(),
                    Node(self._calling, self._address),
                    self._called,
                    patient_id,
                    studies_of((entry.study_instance_uid, entry.sop_class_uid, count) for entry, count in entries),
                    combined({entry.action for entry, _ in entries}),
                    failed=not stored,
                    delivered=delivered if stored else None,
                )
            )

    def _note(self, journal: Journal, entry: Entry) -> None:
        try:
            if self._file is None:
                self._file = journal.begin(Node(self._calling, self._address), self._called)
            self._file.add(entry)
        except OSError as error:  # the message still comes at the end: only the death of this process loses it
            journal.failed(error)


def _text(value: bytes) -> str:
    """Decode a value without its padding. Its character set is unknown here: UTF-8 if possible, else Latin-1."""
    value = value.strip(b" \0")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
