"""Fixtures for tests that count something, and one that leaves no store open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.metrics import metrics_in
from tests.unit.store.instances import close_stores


@pytest.fixture(autouse=True)
def _stores_are_closed() -> Iterator[None]:
    """Each holds descriptors, and pynetdicom's requestors fail in a process that has more than select(2) can watch."""
    yield
    close_stores()


@pytest.fixture
def metric_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the metrics of this process in files, as the daemon's processes do."""
    with metrics_in(tmp_path_factory.mktemp("metrics")):
        yield
