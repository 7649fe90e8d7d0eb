"""Keeps the tests that count open descriptors quick."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _only_own_garbage() -> None:
    """Exempt what earlier modules left from garbage collection, which `open_descriptors` runs a thousand times."""
    gc.collect()
    gc.freeze()
