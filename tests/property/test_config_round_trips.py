"""Quantities, TOML values and whole configurations are equal after being written and read back."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dicomd.config import Config, to_toml, units
from dicomd.config.keys import tables
from dicomd.config.kinds import toml
from dicomd.config.schema import Contexts, Daemon, Limits, Listener, Peer, Storage, Tls
from dicomd.config.units import MAXIMUM_DURATION, MAXIMUM_SIZE, Address
from tests.support.configuration import parse_config

_titles = st.text(st.sampled_from("ABCxyz 0189_-!~\"'"), min_size=1, max_size=16).filter(lambda t: t.strip(" ") == t)
_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True).filter(
    lambda name: name not in {"metrics", "unknown"}
)
_durations = st.floats(0, MAXIMUM_DURATION, exclude_min=True)
_sizes = st.integers(1, MAXIMUM_SIZE)
_paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).map(
    lambda name: units_path("/" + name)
)


def units_path(text: str) -> Any:
    from dicomd.config.rules import path

    return path(text)


_configs = st.builds(
    Config,
    dicomd=st.builds(
        Daemon,
        ae_titles=st.lists(_titles, max_size=3).map(tuple),
        workers=st.integers(0, 1024),
        drain_timeout=_durations,
        runtime_dir=st.none() | _paths,
    ),
    listen=st.lists(
        st.builds(
            Listener,
            name=_names,
            address=st.builds(Address, st.ip_addresses().map(str), st.just(0)),
            tls=st.booleans(),
            proxy_protocol=st.lists(st.ip_addresses(v=4).map(str).map(units.parse_network), max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda listener: listener.name,
    ).map(tuple),
    storage=st.builds(Storage, root=_paths, reserve_free=_sizes | st.just(0), max_object_size=_sizes),
    contexts=st.builds(
        Contexts,
        sop_classes=st.lists(st.sampled_from(["all-storage", "any", "CTImageStorage", "1.2.3"]), min_size=1).map(tuple),
    ),
    limits=st.builds(
        Limits,
        connections=st.integers(1, 1_000_000),
        max_pdu=st.integers(4096, 16 * 2**20),
        association_idle=_durations,
        request_timeout=_durations,
        minimum_rate=st.floats(0, MAXIMUM_SIZE),
    ),
    peers=st.lists(
        st.builds(
            Peer,
            name=_names,
            ae_titles=st.lists(_titles, max_size=2).map(tuple),
            associations=st.none() | st.integers(1, 9),
        ),
        max_size=2,
        unique_by=lambda peer: peer.name,
    ).map(tuple),
    tls=st.builds(Tls, client_ca=_paths, client_certificate=st.sampled_from(["required", "optional", "none", None])),
)


@given(_configs)
def test_shown_configuration_loads_back_to_an_equal_one(config: Config) -> None:
    text = to_toml(config)
    assert parse_config(text) == config
    assert to_toml(parse_config(text)) == text


@given(_durations | st.integers(0, 10**7).map(float))
def test_written_duration_reads_back_equal(seconds: float) -> None:
    assert units.parse_duration(units.format_duration(seconds)) == seconds


@given(st.integers(0, MAXIMUM_SIZE))
def test_written_size_reads_back_equal(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size


@given(st.floats(0, MAXIMUM_SIZE))
def test_written_rate_reads_back_equal(rate: float) -> None:
    assert units.parse_rate(units.format_rate(rate)) == rate


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.booleans() | st.integers(-(2**63), 2**63 - 1)))
def test_written_toml_value_reads_back_equal(value: Any) -> None:
    assert tomllib.loads(f"x = {toml(value)}")["x"] == value


def test_defaults_in_the_description_are_those_of_the_models() -> None:
    config = Config()
    for table in tables():
        if not table.repeated:
            for key in table.keys:
                if key.default is not None:
                    assert parse_config(f"[{table.name}]\n{key.name} = {key.default}") == config
