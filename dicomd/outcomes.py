"""How an Association ends: for its log line, its metrics, and the failures that are counted for its peer."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How an Association ended, as its counter is labelled."""

    RELEASED = "released"
    ABORTED_BY_PEER = "aborted_by_peer"
    ABORTED_LOCALLY = "aborted_locally"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CONNECTION_LOST = "connection_lost"
