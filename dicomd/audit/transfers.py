"""What one Association is audited for: its instances, summed up by patient, and that it was refused.

The rule it keeps: one message a patient and Association, two where some instances were stored and others not (PS3.15
A.5.2 wants them apart). What is summed up is bounded: for a peer that sends more than `MOST_ENTRIES` there is a message
for each such number of them.
"""

from __future__ import annotations

from collections.abc import Callable

from dicomd.audit.events import Action, Event, InstancesTransferred, Node, SecurityAlert, Study, now

MOST_ENTRIES = 50
"""SOP Classes, in all their studies, that are summed up before they are reported: every syslog receiver has to take
32 KiB (PS3.15 A.6), and an entry has at most 600 bytes."""


class _Patient:
    __slots__ = ("actions", "studies")

    def __init__(self) -> None:
        self.actions: set[Action] = set()
        self.studies: dict[str, dict[str, int]] = {}


class AssociationAudit:
    """Collects for one Association, in its thread; `record` takes each event without waiting, and never raises."""

    __slots__ = ("_address", "_called", "_calling", "_entries", "_patients", "_record")

    def __init__(self, record: Callable[[Event], None], address: str) -> None:
        self._record, self._address = record, address
        self._calling = self._called = ""
        self._patients: dict[tuple[str, bool], _Patient] = {}
        self._entries = 0

    def requested(self, calling_ae_title: str, called_ae_title: str) -> None:
        """An A-ASSOCIATE-RQ has come."""
        self._calling, self._called = calling_ae_title, called_ae_title

    def refused(self, reason: str) -> None:
        """The peer was not let in, for `reason`: dicomd's own words."""
        self._record(SecurityAlert(now(), Node(self._calling, self._address), reason))

    def instance(
        self, patient_id: bytes, study_instance_uid: bytes, sop_class_uid: str, action: Action, *, stored: bool
    ) -> None:
        """An instance came; values are as in its Data Set, empty where it wasn't read so far.

        One that was refused before anything of it was read is nobody's, and not reported.
        """
        if not (stored or patient_id or study_instance_uid):
            return
        patient = self._patients.setdefault((_text(patient_id), stored), _Patient())
        patient.actions.add(action)
        classes = patient.studies.setdefault(_text(study_instance_uid), {})
        if sop_class_uid not in classes:
            self._entries += 1
        classes[sop_class_uid] = classes.get(sop_class_uid, 0) + 1
        if self._entries >= MOST_ENTRIES:
            self.ended()

    def ended(self) -> None:
        """Report what has been summed up."""
        patients, self._patients, self._entries = self._patients, {}, 0
        for (patient_id, stored), patient in patients.items():
            self._record(
                InstancesTransferred(
                    now(),
                    Node(self._calling, self._address),
                    self._called,
                    patient_id,
                    tuple(Study(uid, instances) for uid, instances in patient.studies.items()),
                    _action(patient.actions),
                    failed=not stored,
                )
            )


def _action(actions: set[Action]) -> Action:
    """Created where anything is new, else altered where anything is, else held already."""
    return "C" if "C" in actions else "U" if "U" in actions else "R"


def _text(value: bytes) -> str:
    """A value without its padding. Its character set isn't known here: UTF-8 if it can be, else Latin-1."""
    value = value.strip(b" \0")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
