"""The errors that end a sender, or the whole benchmark."""

from __future__ import annotations


class BlastError(Exception):
    """The receiver unexpectedly refused, failed or closed the connection."""


class BenchError(Exception):
    """A receiver or sender failed, so that no result would mean anything."""
