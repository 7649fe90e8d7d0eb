"""Reports the figures of the crash tests in the terminal and the JUnit file, since a pass alone says little."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.daemon.conftest import start_daemon as start_daemon  # noqa: PLC0414 - a fixture of these tests too

Figures = Callable[..., None]


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Record the figures of a test: ``figures(kills=40, instances=9000)``."""

    def record(**counts: object) -> None:
        for name, count in counts.items():
            record_property(name, count)

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and "tests/crash/" in report.nodeid and report.user_properties
    ]
    if reports:
        terminalreporter.section("figures of the crash tests")
    for report in reports:
        counts = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in report.user_properties)
        terminalreporter.write_line(f"{report.nodeid.rpartition('/')[2]}: {counts}")
