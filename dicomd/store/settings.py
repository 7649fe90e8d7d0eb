"""The settings of a store: how it keeps instances, wherever its root is."""

from __future__ import annotations

from dataclasses import dataclass, field

from dicomd.store.head import WantedElements, wanted_elements
from dicomd.store.layout import Layout
from dicomd.store.types import DuplicatePolicy, Durability, UnfiledPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What one configuration says about a store. A reload makes a successor of the store, with other settings.

    ``reserve_free`` and ``max_object_size`` are in bytes. With ``checksums``, they are recorded if the file system
    keeps them. With ``want_patient_id``, writers report the Patient ID of what they write. ``unfiled`` says what
    happens to an instance whose Data Set can't be read far enough to check and file it, or has no UIDs for the layout.
    """

    layout: Layout
    durability: Durability
    duplicates: DuplicatePolicy
    reserve_free: int
    max_object_size: int
    checksums: bool
    want_patient_id: bool = False
    unfiled: UnfiledPolicy = "refuse"
    wanted: WantedElements = field(init=False)
    """The elements of a Data Set that are to be read."""

    def __post_init__(self) -> None:
        """Derive `wanted`."""
        wanted = wanted_elements(self.layout.optional_elements, patient_id=self.want_patient_id)
        object.__setattr__(self, "wanted", wanted)

    @property
    def synced(self) -> bool:
        """Whether files and directories are synced before an instance counts as stored."""
        return self.durability == "fsync"
