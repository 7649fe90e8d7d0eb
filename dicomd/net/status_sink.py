"""What is shown of Associations while they are open, and of refusals: to the operator who asks, not in the log.

The rule it keeps: `net` says what happens and knows nothing of where it is shown; nothing of the patient's is passed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol


class Refused(StrEnum):
    """What was refused."""

    CONNECTION = "connection"
    HANDSHAKE = "TLS handshake"
    ASSOCIATION = "association"
    CONTEXTS = "presentation contexts"
    INSTANCE = "instance"


class AssociationStatus(Protocol):
    """One open Association; used by its thread alone."""

    def answered(self, *, stored: bool, size: int) -> None:
        """One of its instances was answered, after `size` bytes."""

    def close(self) -> None:
        """It is over. Idempotent."""


class StatusSink(Protocol):
    """Where a worker shows what it does. Safe to use from many threads."""

    def open(self, known: dict[str, Any]) -> AssociationStatus:
        """An Association is open."""

    def count(self, *, associations: int = 0, rejected: int = 0) -> None:
        """Associations that have ended, or were rejected."""

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Something was refused; `who`: peer, address, calling and called AE Title, listener."""


class NoStatusSink:
    """A `Display` and a `Row` for whoever has none."""

    def open(self, known: dict[str, Any]) -> NoStatusSink:  # noqa: ARG002 - the protocol's
        """Show nothing."""
        return self

    def count(self, *, associations: int = 0, rejected: int = 0) -> None:
        """Show nothing."""

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        """Show nothing."""

    def answered(self, *, stored: bool, size: int) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""
