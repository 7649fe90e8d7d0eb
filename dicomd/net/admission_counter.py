"""The interface for counting connections and Associations, so that limits hold over all processes that serve.

`net` counts here without knowing where the counts are kept.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class LimitReached(Enum):
    """Which limit prevents another Association, as its metric is labelled."""

    ASSOCIATIONS = "associations"
    PEER = "associations_per_peer"


class AdmissionCounter(Protocol):
    """Counts connections and Associations over all processes that serve. Thread-safe."""

    def connect(self, limit: int) -> bool:
        """Count a connection in; return False, without counting it, if `limit` are open."""

    def disconnect(self, *, admitted: bool) -> None:
        """Count a connection out; `admitted`: it had an Association, which was counted out."""

    def enter(self, peer: str, *, associations: int, per_peer: int) -> LimitReached | None:
        """Count an Association of `peer` in, or return which of the two limits is reached."""

    def leave(self, peer: str) -> None:
        """Count an Association out."""
