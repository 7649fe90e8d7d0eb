"""Whatever a configuration file contains, reading it ends in a Config or a ConfigError."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from dicomd.config import Config, ConfigError, Problem, load_config
from dicomd.config.keys import tables
from tests.support.configuration import parse_config

_scalars = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(lambda number: repr(number).replace("infinity", "inf")),
    st.sampled_from(
        ["true", "false", "1979-05-27", "07:32:00", "''", '"60s"', '"1KiB/s"', '"any"', '"0.0.0.0:1"', "[]", "{}"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="'"), max_size=30).map("'{}'".format),
)
_values = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"))
_keys = st.sampled_from([key.name for table in tables() for key in table.keys] + ["nonsense", "'a b'", "x.y"])
_headers = st.sampled_from([f for table in tables() for f in (f"[{table.name}]", f"[[{table.name}]]")] + ["[x]", ""])
_tables = st.builds(
    lambda header, entries: "\n".join([header, *(f"{key} = {value}" for key, value in entries.items())]),
    _headers,
    st.dictionaries(_keys, _values, max_size=6),
)


def _ends_well(text: str) -> None:
    problems = _problems(lambda: parse_config(text))
    assert problems is None or problems
    assert all(str(problem).isprintable() for problem in problems or ())


def _problems(read: Callable[[], Config]) -> tuple[Problem, ...] | None:
    """None for a valid configuration, else its problems; any other exception fails the test."""
    try:
        read()
    except ConfigError as error:
        return error.problems
    return None


@given(st.text())
@example("x = " + "[" * 20_000)
@example("x = 0x" + "f" * 5000)
def test_any_text_is_a_configuration_or_an_error(text: str) -> None:
    _ends_well(text)


@given(st.lists(_tables, max_size=4).map("\n".join))
def test_any_toml_is_a_configuration_or_an_error(text: str) -> None:
    _ends_well(text)


@given(st.binary())
def test_any_file_is_a_configuration_or_an_error(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(content)
        file.flush()
        problems = _problems(lambda: load_config(Path(file.name)))
    assert problems is None or problems
