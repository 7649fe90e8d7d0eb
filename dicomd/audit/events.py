"""What is audited, before it is a message: small records that an Association's thread can hand over at once.

The rule it keeps: of a patient there is the Patient ID, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal, NamedTuple

Action = Literal["C", "R", "U"]
"""Of the receiver's copies (PS3.15 Table A.5.3.7-1): created, held already and left alone, altered."""


class Node(NamedTuple):
    """The other side: its AE Title as sent, empty where none came, and its IP address."""

    ae_title: str
    address: str


class Study(NamedTuple):
    """What was transferred of one study: the number of instances by SOP Class UID."""

    study_instance_uid: str
    instances: dict[str, int]


class ApplicationActivity(NamedTuple):
    """The daemon starts or stops (PS3.15 A.5.3.1)."""

    when: datetime
    started: bool


class InstancesTransferred(NamedTuple):
    """Instances of one patient came over one Association (A.5.3.7). `failed`: none of these was stored.

    `delivered` is called once this is kept elsewhere, or counted as lost; without it nothing else knows of them.
    """

    when: datetime
    source: Node
    called_ae_title: str
    patient_id: str
    studies: tuple[Study, ...]
    action: Action
    failed: bool
    delivered: Callable[[], None] | None = None


class SecurityAlert(NamedTuple):
    """Somebody was not let in (A.5.3.11); `reason` is dicomd's own sentence.

    With `since` it stands for so many `times` from then to `when`.
    """

    when: datetime
    node: Node
    reason: str
    times: int = 1
    since: datetime | None = None


Event = ApplicationActivity | InstancesTransferred | SecurityAlert


def combined(actions: set[Action]) -> Action:
    """Created where anything is new, else altered where anything is, else held already."""
    return "C" if "C" in actions else "U" if "U" in actions else "R"


def studies_of(counted: Iterable[tuple[str, str, int]]) -> tuple[Study, ...]:
    """The studies, from Study Instance UID, SOP Class UID and a number of instances each."""
    found: dict[str, dict[str, int]] = {}
    for study_instance_uid, sop_class_uid, count in counted:
        classes = found.setdefault(study_instance_uid, {})
        classes[sop_class_uid] = classes.get(sop_class_uid, 0) + count
    return tuple(Study(uid, classes) for uid, classes in found.items())


def now() -> datetime:
    """The time of an event, in UTC."""
    return datetime.now(UTC)
