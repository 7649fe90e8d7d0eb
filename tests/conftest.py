"""What holds for every test: the same examples in each run, and root's tests only for root."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Seeds are fixed, so that a failure here is a failure everywhere; a deadline an example would measure the machine.
settings.register_profile("dicomd", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dicomd")


def pytest_configure() -> None:
    """A run that is ended by SIGTERM, by `timeout` say, ends its daemons and unmounts its disks, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """All that the tests are made of stays: to look through it again took most of the time of those that collect."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
