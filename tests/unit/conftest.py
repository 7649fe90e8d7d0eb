"""A fixture for tests that count something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.metrics import metrics_in


@pytest.fixture
def metric_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the metrics of this process in files, as the daemon's processes do."""
    with metrics_in(tmp_path_factory.mktemp("metrics")):
        yield
