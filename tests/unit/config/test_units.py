"""Durations, sizes, rates and addresses: reading, writing, and rejecting invalid ones."""

import ipaddress

import pytest

from dicomd.config import units
from dicomd.config.problems import UnacceptableError
from dicomd.config.units import Address, HostPort


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60.0),
        ("1m", 60.0),
        ("1m30s", 90.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("1d", 86400.0),
        ("0", 0.0),
        (10, 10.0),
        (0.5, 0.5),
    ],
)
def test_duration_is_read_in_seconds(text: object, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "60",
        "60 parsecs",
        "1s1m",
        "1s1s",
        "-1s",
        "1e3s",
        "400d",
        "9" * 500 + "s",
        "\u0661s",
        True,
        None,
        -1,
        [],
        1e300,
    ],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(UnacceptableError):
        units.parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), [(60, "60s"), (7200, "2h"), (90, "90s"), (0.25, "250ms"), (0, "0s")])
def test_duration_is_written_the_usual_way(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GiB", 1024**3),
        ("256 kib", 256 * 1024),
        ("1.5KiB", 1536),
        ("500MB", 500_000_000),
        ("1KB", 1000),
        ("12", 12),
        (12, 12),
        ("0B", 0),
    ],
)
def test_size_is_read_in_bytes(text: object, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1B", "1.5B", "1XB", "9" * 30, 1.5, True, None, -1, 2**70])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(UnacceptableError):
        units.parse_size(text)


def test_size_is_written_in_the_largest_unit_that_divides_it() -> None:
    assert [units.format_size(n) for n in (0, 1000, 1024, 256 * 1024, 3 * 1024**3)] == [
        "0B",
        "1000B",
        "1KiB",
        "256KiB",
        "3GiB",
    ]


def test_rate_needs_its_second() -> None:
    assert units.parse_rate("1KiB/s") == 1024.0
    assert units.parse_rate("0") == 0.0
    with pytest.raises(UnacceptableError, match="1KiB/s"):
        units.parse_rate("1KiB")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:11112", Address("127.0.0.1", 11112)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::]:104", Address("::", 104)),
        ("[0:0:0:0:0:0:0:1]:1", Address("::1", 1)),
    ],
)
def test_address_is_read(text: str, address: Address) -> None:
    assert units.parse_address(text) == address
    assert units.parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:11112", '"127.0.0.1:11112"'),
        (":11112", '"0.0.0.0:11112"'),
        ("*:11112", '"0.0.0.0:11112"'),
        ("::1:11112", "[::]"),
        ("[127.0.0.1]:11112", "0.0.0.0:11112"),
        ("127.0.0.1", "0.0.0.0:11112"),
        ("127.0.0.1:65536", "0.0.0.0:11112"),
        ("127.0.0.256:1", "0.0.0.0:11112"),
        ("dicom.example.org:11112", "0.0.0.0:11112"),
        (11112, "0.0.0.0:11112"),
    ],
)
def test_what_is_no_address_is_refused_with_a_better_one(text: object, expected: str) -> None:
    with pytest.raises(UnacceptableError) as caught:
        units.parse_address(text)
    assert expected in caught.value.expected


def test_remote_host_may_be_a_name() -> None:
    assert units.parse_host_port("syslog.example.org:6514") == HostPort("syslog.example.org", 6514)
    assert str(units.parse_host_port("[2001:db8::1]:6514")) == "[2001:db8::1]:6514"
    for text in ("syslog:0", "sys log:1", "syslog", "[syslog]:1", f"{'a' * 300}:1"):
        with pytest.raises(UnacceptableError):
            units.parse_host_port(text)


def test_network_with_host_bits_is_refused_with_the_network_that_was_meant() -> None:
    with pytest.raises(UnacceptableError) as caught:
        units.parse_network("10.1.2.3/24")
    assert '"10.1.2.0/24"' in caught.value.expected


def test_network_of_mapped_addresses_becomes_ipv4() -> None:
    assert units.parse_network("::ffff:10.1.2.0/120") == ipaddress.IPv4Network("10.1.2.0/24")
    assert units.parse_network("10.1.2.3") == ipaddress.IPv4Network("10.1.2.3/32")
    assert units.parse_network("2001:db8::/32") == ipaddress.IPv6Network("2001:db8::/32")


@pytest.mark.parametrize("value", ["10.1.2", 10, "10.1.2.0/33", "", None])
def test_what_is_no_network_is_refused(value: object) -> None:
    with pytest.raises(UnacceptableError):
        units.parse_network(value)
