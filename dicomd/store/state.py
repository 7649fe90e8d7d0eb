"""What a store says of itself: whether it takes instances, and how much room there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dicomd.store.space import Space


@dataclass(frozen=True, slots=True)
class StoreState:
    """Whether the store takes instances, why not ("" if it does), and its space when last looked at.

    ``space_low``: more space is all that it waits for.
    """

    accepting: bool
    reason: str
    avail_bytes: int
    size_bytes: int
    files_avail: int
    space_low: bool = False

    @classmethod
    def seen(cls, space: Space, accepting: bool, reason: str, *, space_low: bool) -> Self:
        """With the space as it has been seen."""
        return cls(accepting, reason, space.avail_bytes, space.size_bytes, space.files_avail, space_low)
