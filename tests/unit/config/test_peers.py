"""Warnings about [[peers]] entries that have no effect."""

from __future__ import annotations

import pytest

from dicomd.config.peers import warnings
from tests.support.configuration import parse_config

NARROW = 'name = "narrow"\nae_titles = ["CT1"]\naddresses = ["10.1.2.0/24", "2001:db8:1::/48"]\n'


def warned(text: str) -> list[str]:
    return [f"{problem.key}: {problem.what}" for problem in warnings(parse_config(text), "file")]


@pytest.mark.parametrize(
    "wide",
    [
        "",
        'ae_titles = ["CT1", "MR1"]\n',
        'addresses = ["10.0.0.0/8", "2001:db8::/32"]\n',
        'ae_titles = ["CT1"]\naddresses = ["10.1.2.0/24", "2001:db8:1::/48", "192.0.2.0/24"]\n',
    ],
)
def test_an_entry_behind_a_wider_one_never_matches(wide: str) -> None:
    text = f'[[peers]]\nname = "wide"\n{wide}[[peers]]\n{NARROW}'
    assert warned(text) == [
        'peers[1]: this entry never applies, since "wide" comes first and matches every peer that it would'
    ]
    assert warned(f'[[peers]]\n{NARROW}[[peers]]\nname = "wide"\n{wide}') == []


@pytest.mark.parametrize(
    "other",
    [
        'ae_titles = ["MR1"]\n',
        'addresses = ["10.1.2.0/25", "2001:db8::/32"]\n',
        'addresses = ["10.0.0.0/8"]\n',
    ],
)
def test_an_entry_that_leaves_something_is_no_wider_one(other: str) -> None:
    assert warned(f'[[peers]]\nname = "other"\n{other}[[peers]]\n{NARROW}') == []


def test_certificate_names_need_a_listener_that_asks_for_certificates() -> None:
    entry = '[[peers]]\nname = "a"\ncertificate_names = ["A.example.org"]\n'
    (found,) = warned(entry)
    assert found.startswith("peers[0].certificate_names: no listener asks for certificates")
    tls = '[[listen]]\nname = "tls"\naddress = "0.0.0.0:2762"\ntls = true\n'
    assert len(warned(entry + tls)) == 1
    tls += '[tls]\nclient_ca = "/ca.pem"\n'
    assert warned(entry + tls) == []
    (found,) = warned(entry + entry.replace('"a"', '"b"').replace("A.", "a.") + tls)
    assert found.startswith("peers[1]: ")


def test_audit_mode_is_pointed_out_where_it_lets_somebody_in() -> None:
    assert warned('[access]\nmode = "audit"\n') == []
    (found,) = warned('[access]\nmode = "audit"\n[[peers]]\nname = "a"\nae_titles = ["A"]\n')
    assert found.startswith("access.mode: ")
