"""The events that are audited, before they become messages: small records that an Association's thread can hand over.

Invariant: of a patient, they contain the Patient ID and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal, NamedTuple

Action = Literal["C", "R", "U"]
"""What became of the receiver's copies (PS3.15 Table A.5.3.7-1): created, already held and left alone, or altered."""


class Node(NamedTuple):
    """The other side: its AE Title as received, empty if there was none, and its IP address."""

    ae_title: str
    address: str


class Study(NamedTuple):
    """What was transferred of one study: the number of instances for each SOP Class UID."""

    study_instance_uid: str
    instances: dict[str, int]


class ApplicationActivity(NamedTuple):
    """The daemon starts or stops (PS3.15 A.5.3.1)."""

    when: datetime
    started: bool


class InstancesTransferred(NamedTuple):
    """Instances of one patient came over one Association (A.5.3.7). `failed`: none of these was stored.

    `delivered` is called once the event is kept elsewhere, or counted as lost. If it is None, the event is the only
    record of these instances.
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
    """Somebody was refused access (A.5.3.11); `reason` is in dicomd's own words.

    If `since` is set, the alert stands for as many as `times`, from then to `when`.
    """

    when: datetime
    node: Node
    reason: str
    times: int = 1
    since: datetime | None = None


Event = ApplicationActivity | InstancesTransferred | SecurityAlert


def combined(actions: set[Action]) -> Action:
    """Combine actions: created if anything is new, else altered if anything was, else already held."""
    return "C" if "C" in actions else "U" if "U" in actions else "R"


def studies_of(counted: Iterable[tuple[str, str, int]]) -> tuple[Study, ...]:
    """Group counts, given as Study Instance UID, SOP Class UID and number of instances, by study."""
    found: dict[str, dict[str, int]] = {}
    for study_instance_uid, sop_class_uid, count in counted:
        classes = found.setdefault(study_instance_uid, {})
        classes[sop_class_uid] = classes.get(sop_class_uid, 0) + count
    return tuple(Study(uid, classes) for uid, classes in found.items())


def now() -> datetime:
    """Return the time for an event, in UTC."""
    return datetime.now(UTC)
