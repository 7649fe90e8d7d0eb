"""The interface through which the parts of a store report failures.

``store.condition`` implements it, and decides whether the store still accepts instances. The parts know only this
interface, so imports go in one direction.
"""

from __future__ import annotations

from typing import Protocol

from dicomd.lacks import Lack
from dicomd.store.errors import StoreError
from dicomd.store.space import Space


class FailureSink(Protocol):
    """Receives the failures of a store, in the thread that met them. Thread-safe; no method raises."""

    def instance_failed(self, error: StoreError) -> None:
        """Report that an instance could not be stored. Without a ``path``, the cause may be the store's own."""

    def file_unreadable(self, error: StoreError) -> None:
        """Report that an existing file, at the error's ``path``, can't be read and therefore counts as different."""

    def reserve_reached(self, seen: Space, lack: Lack) -> None:
        """Report that the space, as it was ``seen``, leaves no room above the reserve."""
