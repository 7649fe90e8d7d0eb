"""check-peer as an administrator uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]

PEERS = """
[dicomd]
ae_titles = ["ARCHIVE"]
[limits]
associations_per_peer = 5
[[peers]]
name = "ct1"
ae_titles = ["CT1", "CT1B"]
addresses = ["10.1.2.0/24"]
associations = 8
[[peers]]
name = "probe"
ae_titles = ["PROBE"]
addresses = ["10.0.0.0/8"]
allow = ["echo"]
[[peers]]
name = "secure"
ae_titles = ["MR1"]
addresses = ["10.0.0.0/8"]
certificate_names = ["mr1.example.org"]
"""


@pytest.fixture
def ask(dicomd: Call, tmp_path: Path) -> Call:
    file = tmp_path / "dicomd.toml"
    file.write_text(PEERS)

    def call(calling: str, address: str, *more: str, text: str = "", called: str = "ARCHIVE") -> Result:
        if text:
            file.write_text(text)
        arguments = ("--calling", calling, "--called", called, "--address", address, *more)
        return dicomd("check-peer", "--config", file, *arguments)

    return call


def test_a_peer_that_may_store(ask: Call) -> None:
    for calling, address in (("CT1", "10.1.2.3"), (" CT1B ", "::ffff:10.1.2.3")):
        result = ask(calling, address)
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "admitted: ct1, by peers.ct1",
            "may: echo, store",
            "Associations at once: 8 for it, by peers.ct1.associations",
        ]


def test_a_peer_that_may_only_echo(ask: Call) -> None:
    result = ask("PROBE", "10.9.9.9")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "admitted: probe, by peers.probe",
        "may: echo",
        "Associations at once: 5 for it, by limits.associations_per_peer",
    ]


def test_a_peer_with_a_certificate(ask: Call) -> None:
    assert ask("MR1", "10.1.1.1").exit_code == 1
    assert ask("MR1", "10.1.1.1", "--certificate", "other", "--certificate", "MR1.example.org").exit_code == 0


@pytest.mark.parametrize(
    ("calling", "address", "called", "expected"),
    [
        ("CT1", "192.0.2.1", "ARCHIVE", "refused: connection refused before negotiation, by peers.addresses: "),
        ("CT1", "10.9.9.9", "ARCHIVE", "refused: A-ASSOCIATE-RJ 1/1/3, by peers: peers.ct1 has this AE Title"),
        ("XX", "10.9.9.9", "ARCHIVE", "refused: A-ASSOCIATE-RJ 1/1/3, by peers: peers.probe has this address"),
        ("CT1", "10.1.2.3", "OTHER", "refused: A-ASSOCIATE-RJ 1/1/7, by dicomd.ae_titles: "),
    ],
)
def test_a_peer_that_is_refused(ask: Call, calling: str, address: str, called: str, expected: str) -> None:
    result = ask(calling, address, called=called)
    assert result.exit_code == 1
    assert result.stdout.startswith(expected)


def test_audit_mode_admits_and_says_what_enforce_would_do(ask: Call) -> None:
    text = PEERS + '[access]\nmode = "audit"\n'
    stranger = ask("XX", "192.0.2.1", text=text)
    assert stranger.exit_code == 0
    lines = stranger.stdout.splitlines()
    assert lines[:2] == ["admitted: unknown, by peers", "may: echo, store"]
    assert lines[3].startswith('access.mode = "enforce" would refuse this peer: A-ASSOCIATE-RJ 1/1/3, by peers: ')
    assert ask("PROBE", "10.1.1.1").stdout.splitlines()[3] == 'access.mode = "enforce" would allow only: echo'
    assert len(ask("CT1", "10.1.2.3").stdout.splitlines()) == 3


def test_without_peers_everybody_is_admitted(ask: Call) -> None:
    result = ask("XX", "192.0.2.1", text="\n", called="ANY")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "admitted: unknown, by no [[peers]]",
        "may: echo, store",
        "Associations at once: 64 for its address, by limits.associations_per_peer",
    ]


def test_a_mistake_is_told(ask: Call) -> None:
    for calling, address in (("CT1", "ct1.example.org"), ("CT\\1", "10.1.2.3"), ("A" * 17, "10.1.2.3")):
        result = ask(calling, address)
        assert result.exit_code == 2
        assert "Invalid value" in result.stderr
    assert ask("CT1", "10.1.2.3", text="[[peers]]").exit_code == 78
