"""The interface for showing open Associations and refusals to an operator who asks, outside the log.

`net` reports what happens here without knowing where it is shown. Invariant: no patient data is passed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Refused(StrEnum):
    """What was refused."""

    CONNECTION = "connection"
    HANDSHAKE = "TLS handshake"
    PROTOCOL = "protocol"
    ASSOCIATION = "association"
    CONTEXTS = "presentation contexts"
    INSTANCE = "instance"
    UNFILED = "instance, kept unfiled"


class AssociationStatus(Protocol):
    """One open Association, used only by its thread."""

    def answered(self, *, stored: bool, size: int) -> None:
        """Count an answered instance of `size` bytes."""

    def close(self) -> None:
        """Remove the Association, as it has ended. Idempotent."""


class StatusSink(Protocol):
    """Shows what a worker does. Thread-safe."""

    def open(self, known: dict[str, str]) -> AssociationStatus:
        """Show an open Association, with what is `known` about it."""

    def count(self, *, associations: int = 0, rejected: int = 0, unfiled: int = 0) -> None:
        """Count Associations that have ended, those of them that were rejected, and instances kept unfiled."""

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Show a refusal; `who` has peer, address, calling and called AE Title, and listener."""
