"""What dicomd uses of prometheus_client without its documentation mentioning it is still there."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, values

pytestmark = pytest.mark.usefixtures("metric_files")
PLACE = "dicomd/telemetry/cells.py"


def found(owner: Any, name: str) -> Any:
    assert hasattr(owner, name), f"prometheus_client {version('prometheus_client')} no longer has {name}: see {PLACE}"
    return getattr(owner, name)


def test_the_class_of_values_can_be_replaced() -> None:
    for name in ("ValueClass", "MultiProcessValue", "close_all_multiprocess_files"):
        found(values, name)
    counter = Counter("x", "x", registry=CollectorRegistry())
    assert isinstance(found(counter, "_value"), values.ValueClass), f"ValueClass has no effect: see {PLACE}"


def test_a_value_says_where_it_is_in_its_file() -> None:
    value = found(Counter("x", "x", registry=CollectorRegistry()), "_value")
    file = found(value, "_file")
    at = found(file, "_positions")[found(value, "_key")]
    value.inc(1.5)
    assert memoryview(found(file, "_m"))[at : at + 8].cast("d")[0] == 1.5, f"the file's format has changed: see {PLACE}"


def test_a_histogram_counts_each_amount_in_one_bucket() -> None:
    histogram = Histogram("x", "x", buckets=(1.0, 2.0), registry=CollectorRegistry())
    assert found(histogram, "_upper_bounds") == [1.0, 2.0, float("inf")], f"the bounds have changed: see {PLACE}"
    histogram.observe(1.0)
    assert [bucket.get() for bucket in found(histogram, "_buckets")] == [1, 0, 0], f"buckets have changed: see {PLACE}"
    assert found(histogram, "_sum").get() == 1.0
