"""Audit messages are valid by the standard's own schema (PS3.15 A.5.1), whatever peers send."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from dicomd.audit.events import ApplicationActivity, Event, InstancesTransferred, Node, SecurityAlert, Study
from dicomd.audit.messages import Reporter, render
from tests.support.audit import schema

WHEN = datetime(2026, 11, 24, 6, 53, 12, 5, tzinfo=UTC)
REPORTER = Reporter("pacs.example.org", 4711)
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def message(event: Event) -> etree._Element:
    """The message as parsed by a receiver, asserted to be valid."""
    root = etree.fromstring(render(event, REPORTER).xml)
    schema().assertValid(root)
    return root


def transferred(patient_id: str = "4711", *, failed: bool = False, studies: tuple[Study, ...] = ()) -> Event:
    return InstancesTransferred(WHEN, Node("CT1", "10.1.2.3"), "DICOMD", patient_id, studies, "C", failed)


@pytest.mark.parametrize(("started", "code"), [(True, "110120"), (False, "110121")])
def test_application_activity(started: bool, code: str) -> None:
    root = message(ApplicationActivity(WHEN, started))
    assert root.xpath("EventIdentification/EventID/@csd-code") == ["110100"]
    assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == [code]
    assert root.xpath("EventIdentification/@EventDateTime") == ["2026-11-24T06:53:12.000005Z"]
    assert root.xpath("ActiveParticipant/@UserID") == ["4711"]
    assert root.xpath("AuditSourceIdentification/@AuditSourceID") == ["dicomd@pacs.example.org"]


def test_instances_transferred() -> None:
    root = message(transferred(studies=(Study("1.2.3", {CT: 200, MR: 1}), Study("1.2.4", {CT: 1}))))
    assert root.xpath("EventIdentification/EventID/@csd-code") == ["110104"]
    assert root.xpath("EventIdentification/@EventActionCode") == ["C"]
    assert root.xpath("EventIdentification/@EventOutcomeIndicator") == ["0"]
    source, destination = root.xpath("ActiveParticipant")
    assert source.xpath("RoleIDCode/@csd-code") == ["110153"]
    assert source.get("UserID") == "CT1"
    assert source.get("NetworkAccessPointID") == "10.1.2.3"
    assert destination.xpath("RoleIDCode/@csd-code") == ["110152"]
    assert destination.get("AlternativeUserID") == "AETITLES=DICOMD"
    studies = root.xpath("ParticipantObjectIdentification[@ParticipantObjectTypeCode='2']")
    assert [study.get("ParticipantObjectID") for study in studies] == ["1.2.3", "1.2.4"]
    assert studies[0].xpath("*/SOPClass/@UID") == [CT, MR]
    assert studies[0].xpath("*/SOPClass/@NumberOfInstances") == ["200", "1"]
    (patient,) = root.xpath("ParticipantObjectIdentification[@ParticipantObjectTypeCode='1']")
    assert patient.get("ParticipantObjectID") == "4711"
    assert patient.xpath("ParticipantObjectName")[0].text is None


def test_instances_that_were_not_stored_are_a_failure() -> None:
    root = message(transferred(failed=True, studies=(Study("", {CT: 1}),)))
    assert root.xpath("EventIdentification/@EventOutcomeIndicator") == ["4"]


def test_an_alert_that_stands_for_several_says_for_how_many() -> None:
    since = WHEN.replace(minute=52)
    root = message(SecurityAlert(WHEN, Node("X", "10.6.6.6"), "not listed", times=137, since=since))
    details = dict(
        zip(
            root.xpath("//ParticipantObjectDetail/@type"),
            (base64.b64decode(value).decode() for value in root.xpath("//ParticipantObjectDetail/@value")),
            strict=True,
        )
    )
    assert details == {
        "Alert Description": "not listed (137 times since 2026-11-24T06:52:12.000005Z)",
        "Alert Count": "137",
    }


def test_only_alerts_have_the_outcome_by_which_the_spool_knows_them() -> None:
    alert = SecurityAlert(WHEN, Node("", "10.6.6.6"), "no")
    others = [
        ApplicationActivity(WHEN, True),
        ApplicationActivity(WHEN, False),
        transferred(),
        transferred(failed=True),
    ]
    assert render(alert, REPORTER).is_alert
    assert not any(render(event, REPORTER).is_alert for event in others)


def test_security_alert() -> None:
    root = message(SecurityAlert(WHEN, Node("", "10.6.6.6"), "TLS handshake failed: no certificate"))
    assert root.xpath("EventIdentification/EventID/@csd-code") == ["110113"]
    assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == ["110126"]
    assert root.xpath("ParticipantObjectIdentification/@ParticipantObjectID") == ["10.6.6.6"]
    (detail,) = root.xpath("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert detail.get("type") == "Alert Description"


texts = st.text(max_size=70) | st.binary(max_size=70).map(lambda value: value.decode("latin-1"))


@given(texts, texts, texts, texts)
def test_whatever_peers_send_the_message_is_valid(ae_title: str, patient_id: str, study: str, reason: str) -> None:
    node = Node(ae_title, "10.1.2.3")
    message(InstancesTransferred(WHEN, node, ae_title, patient_id, (Study(study, {study: 1}),), "R", failed=False))
    message(SecurityAlert(WHEN, node, reason))
