"""Metrics of the test process, in files as those of the daemon's processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import values

from dicomd.ipc.metric_files import close_files, use_files


@contextmanager
def metrics_in(folder: Path) -> Iterator[None]:
    """Keep the metrics that are created in the meantime in files of the folder. They are unusable afterwards."""
    with pytest.MonkeyPatch.context() as before:
        before.setattr(values, "ValueClass", values.ValueClass)
        before.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
        use_files(folder, "test")
        try:
            yield
        finally:
            close_files()
