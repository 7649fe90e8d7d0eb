"""The state of a store: whether it accepts instances, and how much space there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dicomd.lacks import Lack
from dicomd.store.space import Space


@dataclass(frozen=True, slots=True)
class StoreState:
    """Whether the store accepts instances, why not ("" if it does), and its space when last looked at.

    ``lack`` is set if only that keeps it from accepting.
    """

    accepting: bool
    reason: str
    avail_bytes: int
    size_bytes: int
    files_avail: int
    lack: Lack | None = None

    @property
    def space_low(self) -> bool:
        """Whether only a lack of space keeps the store from accepting instances."""
        return self.lack is not None

    @classmethod
    def from_space(cls, space: Space, accepting: bool, reason: str, *, lack: Lack | None) -> Self:
        """Make a state with the ``space`` as it was seen."""
        return cls(accepting, reason, space.avail_bytes, space.size_bytes, space.files_avail, lack)
