"""What the parts of a store report while they store instances, in one direction: to whoever judges the store by it."""

from __future__ import annotations

from typing import Protocol

from dicomd.store.errors import StoreError
from dicomd.store.space import Space


class FailureSink(Protocol):
    """Told of failures in the thread that met them. Thread-safe; never raises."""

    def instance_failed(self, error: StoreError) -> None:
        """An instance could not be stored. Without a ``path``, the cause may be the store's."""

    def file_unreadable(self, error: StoreError) -> None:
        """An existing file, at the ``path`` of the error, can't be read, and therefore counts as different."""

    def reserve_reached(self, seen: Space, reason: str) -> None:
        """There was no room left above the reserve when the space was ``seen``."""
