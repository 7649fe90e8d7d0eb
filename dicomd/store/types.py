"""The interface between the Storage service and any store that keeps instances.

Nothing here touches a file, so services can be tested without one, and another kind of store (an object store) needs
only to keep these promises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from dicomd.statuses import Status

Durability = Literal["fsync", "none"]
DuplicatePolicy = Literal["keep-both", "replace", "reject"]
UnfiledPolicy = Literal["refuse", "keep"]
DuplicateOutcome = Literal["", "identical", "kept-both", "replaced"]


class InstanceIdentity(NamedTuple):
    r"""What identifies an instance before its Data Set is seen: the C-STORE-RQ command and its Presentation Context.

    All UIDs are without padding; ``sop_instance_uid`` has been checked against ``[0-9]+(\.[0-9]+)*`` and 64
    characters. ``calling_ae_title`` and ``called_ae_title`` are as the peer sent them, without leading and trailing
    spaces. ``peer`` is its name in the configuration, "" if it has none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer: str = ""


class Refusal(NamedTuple):
    """What an instance that can't be filed is refused with, unless it is kept unfiled."""

    status: Status
    message: str


class Stored(NamedTuple):
    """An instance that has been stored. ``size`` counts the bytes of the Data Set, without File Meta Information.

    ``duplicate`` is "" for a new instance; "identical" if it was already stored: nothing was written, and the existing
    file is now durable; "kept-both" if a different Data Set had the same UID: ``name`` is this one's own; "replaced" if
    it has replaced that one. ``sync_seconds`` is the time spent waiting for the disk. ``refusal`` is set if the
    instance can't be filed and is kept apart from those that are: its Data Set may not be what the command says.
    """

    name: str
    duplicate: DuplicateOutcome
    size: int
    sync_seconds: float
    refusal: Refusal | None = None

    @property
    def path(self) -> Path:
        """``name`` as a path. Computed on demand, since it is rarely needed."""
        return Path(self.name)


class Subject(NamedTuple):
    """The patient and study of an instance: values as in the Data Set, with padding; empty until they are read."""

    patient_id: bytes = b""
    study_instance_uid: bytes = b""


class InstanceWriter(Protocol):
    """Receives one Data Set in fragments. Used by one thread at a time; ends with ``release`` or ``discard``."""

    @property
    def subject(self) -> Subject:
        """The patient and study, as far as they are known; the Patient ID only if the store was told to look for it."""

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Append ``fragments``, ``size`` bytes in all. The views need to be valid only during the call.

        Raises a ``StoreError``, after which the writer has cleaned up and accepts no more.
        """

    def commit(self) -> Stored:
        """Publish the instance; it is durable on return. Raises a ``StoreError``, after which nothing of it is left."""

    def release(self) -> None:
        """Clean up after the response has been sent. Idempotent, never raises."""

    def discard(self) -> None:
        """Discard an incomplete object, leaving nothing behind. Idempotent, never raises."""


class InstanceStore(Protocol):
    """Where instances are kept; shared by all threads of a process."""

    def open(self, identity: InstanceIdentity) -> InstanceWriter:
        """Begin an instance. Raises a ``StoreError`` if the store is not accepting instances."""
