"""The instances of an Association become a bounded number of messages, one per patient."""

from __future__ import annotations

from dicomd.audit.events import Event, InstancesTransferred, SecurityAlert
from dicomd.audit.messages import Reporter, render
from dicomd.audit.transfers import MOST_ENTRIES, AssociationAudit

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def audit() -> tuple[AssociationAudit, list[Event]]:
    events: list[Event] = []
    association = AssociationAudit(events.append, "10.1.2.3")
    association.requested("CT1", "DICOMD")
    return association, events


def transfers(events: list[Event]) -> list[InstancesTransferred]:
    return [event for event in events if isinstance(event, InstancesTransferred)]


def test_one_message_a_patient() -> None:
    association, events = audit()
    for _ in range(3):
        association.instance(b"A ", b"1.2\0", CT, "C", stored=True)
    association.instance(b"A", b"1.2", MR, "R", stored=True)
    association.instance(b"B", b"1.3", CT, "R", stored=True)
    assert not events
    association.ended()
    association.ended()
    first, second = transfers(events)
    assert (first.patient_id, first.action, first.failed) == ("A", "C", False)
    assert [(study.study_instance_uid, study.instances) for study in first.studies] == [("1.2", {CT: 3, MR: 1})]
    assert (second.patient_id, second.action) == ("B", "R")
    assert first.source == ("CT1", "10.1.2.3")


def test_what_failed_is_told_apart() -> None:
    association, events = audit()
    association.instance(b"A", b"1.2", CT, "U", stored=True)
    association.instance(b"A", b"", CT, "R", stored=False)
    association.ended()
    assert [(event.action, event.failed) for event in transfers(events)] == [("U", False), ("R", True)]


def test_nothing_received_is_nothing_told() -> None:
    association, events = audit()
    association.ended()
    assert events == []


def test_a_refusal_is_told_at_once() -> None:
    association, events = audit()
    association.refused("not listed")
    (alert,) = events
    assert isinstance(alert, SecurityAlert)
    assert (alert.node, alert.reason) == (("CT1", "10.1.2.3"), "not listed")


def test_endless_studies_are_told_in_messages_that_every_receiver_takes() -> None:
    association, events = audit()
    longest = "1." + "2" * 57
    for number in range(10 * MOST_ENTRIES):
        association.instance(b"P" * 64, f"{longest}.{number:04}".encode(), f"{longest}.9999", "C", stored=True)
    association.ended()
    assert len(events) == 10
    assert max(len(render(event, Reporter("h" * 64, 4_000_000)).xml) for event in events) < 32_000


def test_other_character_sets_than_utf_8_do_no_harm() -> None:
    association, events = audit()
    association.instance("Jürgen".encode("latin-1"), b"1.2", CT, "C", stored=True)
    association.instance("患者".encode(), b"1.2", CT, "C", stored=True)
    association.ended()
    assert [event.patient_id for event in transfers(events)] == ["Jürgen", "患者"]
