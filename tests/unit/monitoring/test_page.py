"""The status page: every state in words, and no text from strangers that a browser would obey."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from dicomd.monitoring.page import render

EVIL = "<script>alert(1)</script>\"'&"
STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "uptime_seconds": 90061,
    "ready": True,
    "reason": "",
    "generation": 2,
    "maintenance": False,
    "stopping": False,
    "listeners": {"dicom": "0.0.0.0:11112"},
    "http": ["127.0.0.1:11113"],
    "access_open": False,
    "configuration": {
        "path": "/etc/dicomd/dicomd.toml",
        "last_reload": {"time": "2026-01-02T03:04:05Z", "successful": True, "errors": []},
        "restart_pending": [],
    },
    "workers": [
        {"worker": "0", "pid": 9, "state": "ready", "generation": 2, "connections": 1, "associations": 1},
    ],
    "associations": {"open": 0, "limit": 256, "listed": [], "not_listed": 0},
    "counters": {"associations": 0, "rejected": 0, "instances": 0, "failures": 0, "unfiled": 0, "bytes": 0},
    "store": {
        "accepting": True,
        "reason": "",
        "root": "/srv",
        "layout": "{CalledAETitle}/{SOPInstanceUID}.dcm",
        "reserve_bytes": 10,
        "avail_bytes": 250,
        "size_bytes": 1000,
        "files_avail": 5,
    },
    "refusals": [],
    "peers": [],
    "certificates": [],
    "rates": {"10s": {}, "60s": {}, "300s": {}},
}
ROW = {
    "peer": EVIL,
    "calling_aet": EVIL,
    "called_aet": EVIL,
    "peer_address": EVIL,
    "age_seconds": 3,
    "instances": 1,
    "failures": 0,
    "bytes": 1,
}


class Document(HTMLParser):
    """The elements of a page, and its text without markup."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.state = ""
        self._is_state = False
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self._is_state = ("id", "state") in attrs

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._is_state:
            self.state, self._is_state = data, False


def page(**changes: Any) -> Document:
    return Document(render(STATUS | changes, [0.0, 2.0, 1.0], "host"))


def test_it_says_how_things_are() -> None:
    document = page()
    assert document.state == "accepting instances"
    for told in ("version 1.2.3", "1 d 1 h", "25%", "No Association is open", "Nothing was refused"):
        assert told in document.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ready": False, "reason": "the store takes nothing: full"}, "not accepting instances"),
        ({"ready": False, "reason": "the store takes nothing: full"}, "the store takes nothing: full"),
        ({"ready": False, "maintenance": True, "reason": "x"}, "in maintenance"),
        ({"access_open": True}, "every peer that can connect may store"),
        ({"counters": STATUS["counters"] | {"unfiled": 1234}}, "1,234 since the start"),
        ({"certificates": [{"listener": "tls", "not_after": "2026-01-02T03:04:05Z", "days": 3}]}, "3 days"),
        ({"peers": [{"peer": "ct1", "instances": 5, "failures": 1, "last_store": None}]}, "never"),
        (
            {"store": {"accepting": False, "reason": "no worker is ready", "root": "/srv", "layout": ""}},
            "no: no worker is ready",
        ),
        (
            {
                "configuration": {
                    "last_reload": {"time": "2026-01-02T03:04:05Z", "successful": False, "errors": ["k: e"]}
                }
            },
            "The last reload was rejected",
        ),
        ({"configuration": {"last_reload": None, "restart_pending": ["storage.root"]}}, "storage.root"),
        ({"store": {"accepting": False, "reason": "x", "root": None, "layout": None}}, "0 B of 0 B"),
        ({"workers": [], "listeners": None, "access_open": None}, "No worker is running"),
    ],
)
def test_it_says_what_is_the_matter(changes: dict[str, Any], told: str) -> None:
    assert told in page(**changes).text


def test_before_anything_is_known_there_is_a_page() -> None:
    unknown = {"configuration": {}, "listeners": None, "access_open": None, "workers": []}
    status = {key: value for key, value in STATUS.items() if key not in ("peers", "certificates")}
    assert "No peer is known" in Document(render(status | unknown, [], "host")).text


def test_it_never_says_images() -> None:
    refusal = {"refused": "x", "why": "y", "last": "2026-01-02T03:04:05Z", "count": 1}
    for changes in ({}, {"ready": False}, {"associations": {"open": 1, "limit": 9, "listed": [ROW], "not_listed": 0}}):
        assert "image" not in page(**changes, refusals=[refusal]).text.lower()


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ({"peer": "ct1", "address": "10.0.0.1", "calling": "CT"}, "<td><code>CT</code><br>ct1<br>10.0.0.1</td>"),
        ({"peer": "unknown", "address": "10.0.0.1"}, "<td>10.0.0.1</td>"),
        ({"calling": "CT"}, "<td><code>CT</code></td>"),
        ({}, "<td></td>"),
    ],
)
def test_who_was_refused_as_far_as_it_is_known(known: dict[str, str], shown: str) -> None:
    refusal = {"refused": "x", "why": "y", "last": "2026-01-02T03:04:05Z", "count": 1} | known
    assert shown in render(STATUS | {"refusals": [refusal]}, [], "host")


def test_only_the_exporter_loads_the_template_engine() -> None:
    """The supervisor forks the exporter, so it has the exporter's module."""
    lean = "import sys, dicomd.supervisor.start; assert 'dicomd.monitoring.exporter' in sys.modules; "
    subprocess.run([sys.executable, "-c", f"{lean}assert 'jinja2' not in sys.modules"], check=True)


def test_what_a_stranger_chose_is_text() -> None:
    refusal = {
        "refused": EVIL,
        "why": EVIL,
        "advice": EVIL,
        "calling": EVIL,
        "last": "2026-01-02T03:04:05Z",
        "count": 2,
    }
    document = page(
        reason=EVIL,
        ready=False,
        associations={"open": 1, "limit": None, "listed": [ROW], "not_listed": 0},
        refusals=[refusal],
        workers=[STATUS["workers"][0] | {"state": EVIL}],
    )
    assert "script" not in document.elements
    assert document.text.count(EVIL) == 10
    assert not [name for name, _ in document.attributes if name.startswith("on")]


def test_it_asks_for_nothing_from_elsewhere() -> None:
    document = page()
    assert not {"script", "img", "link", "iframe", "object"} & set(document.elements)
    assert {value for name, value in document.attributes if name in ("href", "src")} == {"/status", "/metrics"}


def test_more_associations_than_it_lists_are_counted() -> None:
    rows = [ROW] * 60
    assert "and 40 more" in page(associations={"open": 90, "limit": 1, "listed": rows, "not_listed": 30}).text
