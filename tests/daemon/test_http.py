"""The HTTP endpoint of the running daemon: which requests may see data about peers, and hostile headers."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import StartDaemon
from tests.support.daemon import Daemon

EVIL = "rebound.example"


def test_a_name_that_a_web_page_brings_along_shows_nothing_of_peers(start_daemon: StartDaemon) -> None:
    """DNS rebinding: the browser's Host header is the web page's own name."""
    daemon = start_daemon(dicomd={"workers": 1})
    for path in ("/", "/status"):
        status, text = daemon.get(path, Host=EVIL)
        assert status == 421
        assert "http.hosts" in text
        assert daemon.get(path, Host=f"localhost:{daemon.http[1]}")[0] == 200
    for path in ("/metrics", "/-/healthy", "/-/ready"):
        assert daemon.get(path, Host=EVIL)[0] == 200


def test_a_reload_adds_names_and_takes_them_away(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd={"workers": 1}, http={"hosts": ["DICOMD.example.org"]})
    assert daemon.get("/status", Host="dicomd.example.org:11113")[0] == 200
    daemon.configure(http={"hosts": ["pacs.example.org"]})
    assert daemon.reload()["restart_pending"] == []
    assert daemon.get("/status", Host="pacs.example.org")[0] == 200
    assert daemon.get("/status", Host="dicomd.example.org")[0] == 421
    daemon.configure(http={"hosts": ["no name"]})
    assert daemon.reload()["event"] == "config rejected"
    assert daemon.get("/", Host="pacs.example.org")[0] == 200  # as before


@pytest.mark.parametrize("version", ["1=2", "x.y.z", "9" * 5000])
def test_a_scrape_that_asks_for_nonsense_gets_text_and_is_no_internal_error(receiver: Daemon, version: str) -> None:
    status, text = receiver.get("/metrics", Accept=f"application/openmetrics-text;version={version}")
    assert status == 200
    assert "dicomd_build_info{" in text
    assert receiver.metric("dicomd_internal_errors_total", module="monitoring") == 0
