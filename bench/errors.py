"""What ends a sender, or the whole benchmark, before its end."""

from __future__ import annotations


class BlastError(Exception):
    """The receiver refused, failed or closed where it should not have."""


class BenchError(Exception):
    """A receiver or sender did not do its part, so no figure would mean anything."""
