"""What a store takes and gives: the interface between the Storage service and any place that keeps instances.

The rule: nothing here touches a file, so that services can be tested without one, and another store (an object store)
need only keep these promises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Durability = Literal["fsync", "none"]
DuplicatePolicy = Literal["keep-both", "replace", "reject"]
DuplicateOutcome = Literal["", "identical", "kept-both", "replaced"]


class InstanceIdentity(NamedTuple):
    r"""Who an instance is, from the C-STORE-RQ command and its Presentation Context, before its Data Set is seen.

    All UIDs are without padding; ``sop_instance_uid`` has been checked against ``[0-9]+(\.[0-9]+)*`` and 64
    characters. ``calling_ae_title`` and ``called_ae_title`` are as the peer sent them, without leading and trailing
    spaces.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str


class Stored(NamedTuple):
    """An instance that is kept. ``size`` counts the bytes of the Data Set, File Meta Information left out.

    ``duplicate``: "" a new instance; "identical" it was there already and is durable now, nothing was written;
    "kept-both" another Data Set under the same UID was there, ``name`` is this one's own; "replaced" it has taken
    that one's place. ``sync_seconds`` is the time spent waiting for the disk.
    """

    name: str
    duplicate: DuplicateOutcome
    size: int
    sync_seconds: float

    @property
    def path(self) -> Path:
        """Where it is kept, ``name`` as a path: made when asked for, since hardly anybody does."""
        return Path(self.name)


class Subject(NamedTuple):
    """Whose instance it is, values as in the Data Set, padding included; empty as far as it hasn't been read."""

    patient_id: bytes = b""
    study_instance_uid: bytes = b""


class InstanceWriter(Protocol):
    """Takes one Data Set, fragment by fragment. Used by one thread; ends with ``release`` or ``discard``."""

    @property
    def subject(self) -> Subject:
        """Whose instance it is, as far as it is known; the Patient ID only in a store that was asked to look for it."""

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Append ``fragments``, ``size`` bytes in all. The views need be valid during the call only.

        Raises a ``StoreError``, after which the writer has cleaned up and takes no more.
        """

    def commit(self) -> Stored:
        """Publish the instance; it is durable on return. Raises a ``StoreError``, after which nothing of it is left."""

    def release(self) -> None:
        """Do what nobody waits for, after the response has gone out. Idempotent, never raises."""

    def discard(self) -> None:
        """Leave nothing behind: the peer went away in the middle of the object. Idempotent, never raises."""


class InstanceStore(Protocol):
    """Where instances are kept; shared by all threads of a process."""

    def open(self, identity: InstanceIdentity) -> InstanceWriter:
        """Begin an instance. Raises a ``StoreError`` when the store takes none at present."""
