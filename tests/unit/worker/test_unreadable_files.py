"""How often stored files that can't be read are logged."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dicomd.store.errors import StoreUnavailable
from dicomd.telemetry.metrics import Metrics
from dicomd.worker import unreadable_files
from dicomd.worker.unreadable_files import UnreadableFiles

pytestmark = pytest.mark.usefixtures("metric_files")

TEN_MINUTES = 600.0


class Told:
    """A logger that keeps the fields of its records."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def error(self, event: str, **fields: Any) -> None:
        assert event == "stored file cannot be read"
        self.lines.append(fields)


def test_there_are_ten_lines_in_ten_minutes_at_most_and_all_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    told, now = Told(), 1000.0
    monkeypatch.setattr(unreadable_files, "get_logger", lambda: told)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    registry = CollectorRegistry()
    files = UnreadableFiles(Metrics(registry, version="0", listeners=["dicom"], peers=[]))

    def meet(*numbers: int) -> None:
        for number in numbers:
            files.tell(StoreUnavailable("It can't be read", operation="read", errno="EIO", path=f"/s/{number}.dcm"))

    meet(*[1] * 50)
    assert [(line["path"], line["count"]) for line in told.lines] == [("/s/1.dcm", 1)]
    meet(*range(100))
    assert len(told.lines) == 10
    now += TEN_MINUTES - 1
    meet(*range(100))
    assert len(told.lines) == 10
    now += 1
    meet(1)
    assert len(told.lines) == 11
    assert sum(line["count"] for line in told.lines) == 251
    assert registry.get_sample_value("dicomd_store_errors_total", {"operation": "read", "errno": "EIO"}) == 251
