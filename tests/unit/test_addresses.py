"""Which addresses count as one host."""

from __future__ import annotations

import pytest

from dicomd.addresses import host_of


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
        ("unknown", "10.0.0.1", False),
    ],
)
def test_a_host_is_an_ipv4_address_or_a_64_of_ipv6(first: str, second: str, same: bool) -> None:
    assert (host_of(first) == host_of(second)) is same


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (":", ":"),
        ("", ""),
    ],
)
def test_a_host_is_written_as_people_write_it(address: str, host: str) -> None:
    assert host_of(address) == host
