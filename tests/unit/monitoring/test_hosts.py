"""The Host headers for which pages about peers are shown."""

from __future__ import annotations

import pytest

from dicomd.monitoring.hosts import is_shown

NAMES = ("dicomd.example.org",)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:11113",
        "10.1.2.3:80",
        "10.1.2.3:",
        "[::1]",
        "[::1]:11113",
        "[2001:db8::3]:11113",
        "localhost",
        "LOCALHOST:11113",
        "localhost.",
        "dicomd.example.org",
        "DICOMD.example.org:11113",
        "dicomd.example.org.",
        " dicomd.example.org ",
    ],
)
def test_ours(host: str) -> None:
    assert is_shown([host], NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":11113",
        "evil.example",
        "evil.example:11113",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.localhost",
        "dicomd.example.org.evil.example",
        "xdicomd.example.org",
        "dicomd.example.org..",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1, evil.example",
        "evil.example#127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "::1",
        "[::1",
        "[evil.example]",
        "[127.0.0.1]",
        "127.0.0.1:80:80",
        "127.0.0.1:x",
        "localhost/",
        "lo\u017fcalhost",
        "1\u0662\u0663.0.0.1",
        "\u2170.example",
    ],
)
def test_not_ours(host: str) -> None:
    assert not is_shown([host], NAMES)


def test_none_and_several_are_not_ours() -> None:
    assert not is_shown([], NAMES)
    assert not is_shown(["127.0.0.1", "evil.example"], NAMES)
    assert not is_shown(["127.0.0.1", "127.0.0.1"], NAMES)


def test_without_names_only_addresses_and_localhost() -> None:
    assert not is_shown(["dicomd.example.org"], ())
    assert is_shown(["127.0.0.1"], ())
