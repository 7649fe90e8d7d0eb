"""The HTTP endpoint of the running daemon: no header breaks it."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import StartDaemon


@pytest.mark.parametrize("version", ["1=2", "x.y.z", "9" * 5000])
def test_a_scrape_that_asks_for_nonsense_gets_text_and_is_no_internal_error(
    start_daemon: StartDaemon, version: str
) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    status, text = daemon.get("/metrics", Accept=f"application/openmetrics-text;version={version}")
    assert status == 200
    assert "dicomd_build_info{" in text
    assert daemon.metric("dicomd_internal_errors_total", module="process") == 0
