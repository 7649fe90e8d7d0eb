"""The audit journal: entries outlive their process, are taken over once, and are removed once they are delivered."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomd.audit.events import InstancesTransferred, Node
from dicomd.audit.journal import RECORD, Entry, Journal, JournalFile
from dicomd.audit.transfers import AssociationAudit

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
SOURCE = Node("CT1", "10.1.2.3")


def fail(error: OSError) -> None:
    raise error


def killed(folder: Path, work: Callable[[Journal], object]) -> None:
    """Use a journal in a separate process, then kill the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads
        pid = os.fork()
    if pid == 0:
        try:
            _keep_alive = work(Journal(folder, fail))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def association(journal: Journal, *instances: tuple[str, str, str, int]) -> AssociationAudit:
    audit = AssociationAudit(lambda event: None, SOURCE.address, journal)
    audit.requested(SOURCE.ae_title, "DICOMD")
    for patient, study, sop_class, count in instances:
        for _ in range(count):
            audit.instance(patient.encode(), study.encode(), sop_class, "C", stored=True)
    return audit


def recovered(folder: Path, *, deliver: int = 0) -> list[InstancesTransferred]:
    """The events that dead processes have left, read by a process that ends after delivering `deliver` of them."""
    journal = Journal(folder, fail)
    try:
        found = [event for events in journal.recover(1000) for event in events]
        for event in found[:deliver]:
            assert event.delivered is not None
            event.delivered()
        journal.finish()
        assert not journal.tend(10)
        return found
    finally:
        journal.close()


def test_what_a_killed_process_has_stored_is_told_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    killed(folder, lambda j: association(j, ("A", "1.2", CT, 1234), ("A", "1.3", MR, 1), ("Jürgen\1", "1.4", CT, 2)))
    first, second = recovered(folder)
    assert (first.source, first.called_ae_title) == (SOURCE, "DICOMD")
    assert (first.patient_id, first.studies, first.action) == ("A", (("1.2", {CT: 1234}), ("1.3", {MR: 1})), "C")
    assert (second.patient_id, second.studies) == ("Jürgen\1", (("1.4", {CT: 2}),))
    assert not first.failed
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_taken_over_stays_until_it_is_delivered(tmp_path: Path) -> None:
    killed(tmp_path, lambda j: association(j, ("A", "1.2", CT, 3), ("B", "1.3", CT, 1)))
    for _ in range(3):  # those that took it over died, too
        killed(tmp_path, lambda j: (j, [list(events) for events in j.recover(10)]))
    assert len(recovered(tmp_path, deliver=1)) == 2
    assert len(recovered(tmp_path, deliver=2)) == 2
    assert recovered(tmp_path) == []


def test_a_living_process_keeps_what_is_its_own(tmp_path: Path) -> None:
    living = Journal(tmp_path, fail)
    audit = association(living, ("A", "1.2", CT, 3))
    assert recovered(tmp_path) == []
    audit.instance(b"A", b"1.2", CT, "C", stored=True)
    living.close()  # as when its process ends
    (event,) = recovered(tmp_path)
    assert event.studies == (("1.2", {CT: 4}),)
    audit.ended()


def test_several_take_each_file_over_once(tmp_path: Path) -> None:
    for number in range(5):
        killed(tmp_path, lambda j, number=number: association(j, (f"P{number}", "1.2", CT, 1)))
    journals = [Journal(tmp_path, fail) for _ in range(3)]
    found = [event for _ in range(5) for journal in journals for events in journal.recover(1) for event in events]
    assert sorted(event.patient_id for event in found) == [f"P{number}" for number in range(5)]
    for journal in journals:
        journal.close()


def test_what_was_told_leaves_nothing(tmp_path: Path) -> None:
    events: list[InstancesTransferred] = []
    journal = Journal(tmp_path, fail)
    audit = AssociationAudit(events.append, SOURCE.address, journal)  # type: ignore[arg-type]
    for patient in (b"A", b"B"):
        audit.instance(patient, b"1.2", CT, "C", stored=True)
        audit.instance(patient, b"1.2", CT, "C", stored=False)
    audit.ended()
    assert [event.delivered is None for event in events] == [event.failed for event in events]
    for event in events:
        if event.delivered is not None:
            event.delivered()
    journal.finish()
    assert not journal.tend(10)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_stored_costs_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "audit", fail)
    audit = AssociationAudit(lambda event: None, SOURCE.address, journal)
    audit.instance(b"A", b"1.2", CT, "C", stored=False)
    audit.ended()
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"0000000001 [1,2]\n", b"9" * 10 + b"\0" * 100])
def test_a_damaged_file_is_lost_and_gone(tmp_path: Path, damage: bytes) -> None:
    killed(tmp_path, lambda j: association(j, ("A", "1.2", CT, 3)))
    (path,) = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    data = path.read_bytes()
    path.write_bytes(data[:RECORD] + damage.ljust(100, b"\0"))
    journal = Journal(tmp_path, fail)
    assert list(journal.recover(10)) == [[]]
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_process_that_answered_nothing_is_nothing(tmp_path: Path) -> None:
    killed(tmp_path, lambda j: j.begin(SOURCE, "DICOMD"))
    journal = Journal(tmp_path, fail)
    assert list(journal.recover(10)) == []
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_no_entry_lies_across_two_pages_or_grows_beyond_its_record(tmp_path: Path) -> None:
    file = Journal(tmp_path, fail).begin(Node("\1" * 16, "f" * 45), "\1" * 16)
    for number in range(50):
        file.add(Entry("\1" * 80, f"{number}" + "\1" * 78, "1" * 64, "C"))
    assert os.sysconf("SC_PAGE_SIZE") % RECORD == 0
    assert file.path.stat().st_size <= 51 * RECORD
    file.close()


def test_a_journal_that_cannot_be_written_is_told_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    errors: list[OSError] = []
    events: list[object] = []
    audit = AssociationAudit(events.append, SOURCE.address, Journal(tmp_path / "audit", errors.append))
    audit.instance(b"A", b"1.2", CT, "C", stored=True)
    audit.ended()
    assert len(errors) == 1
    assert len(events) == 1


def test_an_instance_costs_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    file: JournalFile = Journal(tmp_path, fail).begin(SOURCE, "DICOMD")
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *arguments: (calls.append("pwrite"), pwrite(*arguments))[1])
    for _ in range(100):
        file.add(Entry("A", "1.2", CT, "C"))
    assert len(calls) == 100
    file.close()
