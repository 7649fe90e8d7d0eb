"""Encodes audit messages as XML (PS3.15 A.5.1 to A.5.3).

Invariant: a message is valid by the standard's schema, whatever a peer has sent as its AE Title or Patient ID. Of a
patient it contains only the Patient ID, and of a study only its UID and the number of instances of each SOP Class.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from xml.etree import ElementTree as ET

from dicomd.audit.events import ApplicationActivity, Event, InstancesTransferred, Node, SecurityAlert, Study

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
"""EventOutcomeIndicator (A.5.1). Only a Security Alert is a serious failure."""

_UNPRINTABLE = re.compile("[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 can't represent, and control characters, which mean nothing in an identifier."""

Code = tuple[str, str, str]
"""Value, coding scheme, meaning."""

_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'
_DCM = "DCM"
_APPLICATION_ACTIVITY = ("110100", _DCM, "Application Activity")
_APPLICATION_START = ("110120", _DCM, "Application Start")
_APPLICATION_STOP = ("110121", _DCM, "Application Stop")
_INSTANCES_TRANSFERRED = ("110104", _DCM, "DICOM Instances Transferred")
_SECURITY_ALERT = ("110113", _DCM, "Security Alert")
_NODE_AUTHENTICATION = ("110126", _DCM, "Node Authentication")
_APPLICATION = ("110150", _DCM, "Application")
_DESTINATION = ("110152", _DCM, "Destination Role ID")
_SOURCE = ("110153", _DCM, "Source Role ID")
_STUDY_INSTANCE_UID = ("110180", _DCM, "Study Instance UID")
_NODE_ID = ("110182", _DCM, "Node ID")
_PATIENT_NUMBER = ("2", "RFC-3881", "Patient Number")


class Reporter(NamedTuple):
    """The sender of a message: its host name and process ID."""

    host: str
    process_id: int


class Rendered(NamedTuple):
    """A message, ready to be kept or sent: `outcome` as in the XML, `timestamp` as in RFC 3339.

    `delivered` is called by what has kept or sent the message.
    """

    timestamp: str
    outcome: str
    xml: bytes
    delivered: Callable[[], None] | None = None

    @property
    def is_alert(self) -> bool:
        """Whether it reports what any stranger can cause."""
        return self.outcome == SERIOUS_FAILURE


def tell_delivered(messages: list[Rendered]) -> None:
    """Call `delivered` of messages that are kept elsewhere now."""
    for message in messages:
        if message.delivered is not None:
            message.delivered()


def render(event: Event, reporter: Reporter) -> Rendered:
    """Return the message that reports an event."""
    if isinstance(event, ApplicationActivity):
        root, outcome = _application_activity(event, reporter)
    elif isinstance(event, InstancesTransferred):
        root, outcome = _instances_transferred(event, reporter)
    else:
        root, outcome = _security_alert(event, reporter)
    # one line, the declaration too: syslog servers escape control characters
    xml: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=False)
    delivered = event.delivered if isinstance(event, InstancesTransferred) else None
    return Rendered(_rfc3339(event.when), outcome, _DECLARATION + xml, delivered)


def _application_activity(event: ApplicationActivity, reporter: Reporter) -> tuple[ET.Element, str]:
    kind = _APPLICATION_START if event.started else _APPLICATION_STOP
    root = _message(event, _APPLICATION_ACTIVITY, "E", SUCCESS, kind)
    _this_process(root, reporter, _APPLICATION, ae_title="")
    _audit_source(root, reporter)
    return root, SUCCESS


def _instances_transferred(event: InstancesTransferred, reporter: Reporter) -> tuple[ET.Element, str]:
    outcome = MINOR_FAILURE if event.failed else SUCCESS
    root = _message(event, _INSTANCES_TRANSFERRED, event.action, outcome)
    _remote_process(root, event.source, _SOURCE)
    _this_process(root, reporter, _DESTINATION, event.called_ae_title)
    _audit_source(root, reporter)
    for study in event.studies:
        _study(root, study)
    patient = _object(root, _PATIENT_NUMBER, event.patient_id)
    patient.attrib |= {"ParticipantObjectTypeCode": "1", "ParticipantObjectTypeCodeRole": "1"}
    return root, outcome


def _security_alert(event: SecurityAlert, reporter: Reporter) -> tuple[ET.Element, str]:
    root = _message(event, _SECURITY_ALERT, "E", SERIOUS_FAILURE, _NODE_AUTHENTICATION)
    _this_process(root, reporter, _APPLICATION, ae_title="")
    _remote_process(root, event.node, _SOURCE)
    _audit_source(root, reporter)
    subject = _object(root, _NODE_ID, event.node.address)
    subject.attrib |= {"ParticipantObjectTypeCode": "2", "ParticipantObjectTypeCodeRole": "13"}
    if event.since is None:
        _detail(subject, "Alert Description", event.reason)
    else:
        since = _rfc3339(event.since)
        _detail(subject, "Alert Description", f"{event.reason} ({event.times} times since {since})")
        _detail(subject, "Alert Count", str(event.times))
    return root, SERIOUS_FAILURE


def _detail(subject: ET.Element, kind: str, text: str) -> None:
    value = base64.b64encode(_text(text).encode()).decode("ascii")
    ET.SubElement(subject, "ParticipantObjectDetail", {"type": kind, "value": value})


# -- parts ---------------------------------------------------------------------------------------------------------


def _message(
    event: Event,
    event_id: Code,
    action: str,
    outcome: str,
    event_type: Code | None = None,
) -> ET.Element:
    root = ET.Element("AuditMessage")
    identification = ET.SubElement(
        root,
        "EventIdentification",
        {"EventActionCode": action, "EventDateTime": _rfc3339(event.when), "EventOutcomeIndicator": outcome},
    )
    _code(identification, "EventID", event_id)
    if event_type is not None:
        _code(identification, "EventTypeCode", event_type)
    return root


def _this_process(root: ET.Element, reporter: Reporter, role: Code, ae_title: str) -> None:
    participant = ET.SubElement(root, "ActiveParticipant", {"UserID": str(reporter.process_id)})
    if ae_title:
        participant.set("AlternativeUserID", f"AETITLES={_text(ae_title)}")
    participant.attrib |= {
        "UserIsRequestor": "false",
        "NetworkAccessPointID": _text(reporter.host),
        "NetworkAccessPointTypeCode": "1",
    }
    _code(participant, "RoleIDCode", role)


def _remote_process(root: ET.Element, node: Node, role: Code) -> None:
    """Add a peer. Its process ID is unknown, so its AE Title identifies it, or its address if it sent none."""
    participant = ET.SubElement(root, "ActiveParticipant", {"UserID": _text(node.ae_title or node.address)})
    if node.ae_title:
        participant.set("AlternativeUserID", f"AETITLES={_text(node.ae_title)}")
    participant.attrib |= {
        "UserIsRequestor": "true",
        "NetworkAccessPointID": _text(node.address),
        "NetworkAccessPointTypeCode": "2",
    }
    _code(participant, "RoleIDCode", role)


def _audit_source(root: ET.Element, reporter: Reporter) -> None:
    source = ET.SubElement(root, "AuditSourceIdentification", {"AuditSourceID": f"dicomd@{_text(reporter.host)}"})
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server process


def _study(root: ET.Element, study: Study) -> None:
    participant = _object(root, _STUDY_INSTANCE_UID, study.study_instance_uid)
    participant.attrib |= {"ParticipantObjectTypeCode": "2", "ParticipantObjectTypeCodeRole": "3"}
    description = ET.SubElement(participant, "ParticipantObjectDescription")
    for sop_class_uid, count in study.instances.items():
        ET.SubElement(description, "SOPClass", {"UID": _text(sop_class_uid), "NumberOfInstances": str(count)})


def _object(root: ET.Element, id_type: Code, identifier: str) -> ET.Element:
    participant = ET.SubElement(root, "ParticipantObjectIdentification", {"ParticipantObjectID": _text(identifier)})
    _code(participant, "ParticipantObjectIDTypeCode", id_type)
    ET.SubElement(participant, "ParticipantObjectName")  # required by the schema; never holds a patient's name
    return participant


def _code(parent: ET.Element, name: str, code: Code) -> None:
    value, system, meaning = code
    ET.SubElement(parent, name, {"csd-code": value, "codeSystemName": system, "originalText": meaning})


def _rfc3339(when: datetime) -> str:
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", value)
