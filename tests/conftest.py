"""Settings for all tests: the same generated examples in each run, and tests that need root only run as root."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Seeds are fixed, so that a failure here is a failure everywhere; a deadline per example would measure the machine.
settings.register_profile("dicomd", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dicomd")


def pytest_configure() -> None:
    """Make SIGTERM, as sent by `timeout`, end the daemons and unmount the disks in the same way as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exempt everything imported so far from garbage collection, which took most of the time of tests that collect."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
