"""No line is longer than 16 KiB and no field of the journal longer than 4,000 bytes, whatever is logged."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomd.telemetry.fields import FIELDS, MAX_FIELD, MAX_LINE, MAX_VALUE, safe_value
from dicomd.telemetry.journal import encode
from dicomd.telemetry.messages import Message
from dicomd.telemetry.render import LEVELS, ConsoleRenderer, JournalRenderer, JsonRenderer, made_safe
from tests.support.journal import decode

COUNTS: dict[str, Callable[[float], None]] = dict.fromkeys(LEVELS, lambda amount: None)
CONSTANTS = {"dicomd_worker": "0", "dicomd_generation": 1}
# The worst that a stranger can do with 250 KB: unprintable characters (four times as long once escaped), quotes and
# backslashes (twice as long in JSON), and characters of four bytes.
NASTY = st.builds(lambda text, times: text * times, st.text(), st.sampled_from([1, 64, 5000]))
VALUES = st.recursive(
    NASTY | st.none() | st.booleans() | st.integers() | st.floats() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(NASTY, inner) | inner.map(lambda value: [value] * 300),
    max_leaves=20,
)
EVENTS = st.sampled_from(list(Message)) | st.text()
ENTRIES = st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES, max_size=20)
ALL_LONG = dict.fromkeys(sorted(FIELDS), '\U0001f600"\\ ' * 5000)
MANY = dict.fromkeys(sorted(FIELDS), ["\x80" * 64, {"a": "\\" * 64}] * 1000)


def error(depth: int = 8) -> Exception:
    """An exception with too long a traceback, full of characters that JSON escapes."""
    try:
        [].index(depth) if not depth else _raise(error(depth - 1))
    except (TypeError, ValueError) as cause:
        found = TypeError(f"{depth}: " + '"' * 500)
        found.__cause__ = cause
        return found
    raise AssertionError


def _raise(error: Exception) -> None:
    raise error


def check_json(event: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    line = JsonRenderer(CONSTANTS, COUNTS)(None, "warning", {**entry, "event": event})
    assert len(line) <= MAX_LINE
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def check_console(event: str, entry: Mapping[str, Any]) -> str:
    line = ConsoleRenderer(CONSTANTS, COUNTS, colors=True)(None, "warning", {**entry, "event": event})
    assert len(line) <= MAX_LINE
    return line.decode()


def check_journal(event: str, entry: Mapping[str, Any]) -> dict[str, str]:
    fields, _ = JournalRenderer(CONSTANTS, COUNTS)(None, "warning", {**entry, "event": event})
    data = encode(fields)
    assert len(data) <= MAX_LINE
    found = decode(data)
    assert all(len(f"{key}={value}".encode()) <= MAX_FIELD for key, value in found.items())
    return found


@given(VALUES, st.integers(40, MAX_VALUE))
def test_any_value_fits_into_its_room(value: object, room: int) -> None:
    assert len(orjson.dumps(safe_value(value))) <= MAX_VALUE
    assert len(orjson.dumps(safe_value(value, room))) <= room


@given(EVENTS, ENTRIES)
def test_any_line_is_bounded_in_each_format(event: str, entry: dict[str, Any]) -> None:
    check_json(event, entry)
    check_console(event, entry)
    found = check_journal(event, entry)
    assert set(found) <= {f"DICOMD_{key.upper()}" for key in FIELDS} | {key.upper() for key in FIELDS} | {
        "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE", "MESSAGE_ID",
    }  # fmt: skip


@pytest.mark.parametrize("entry", [ALL_LONG, MANY, made_safe(ALL_LONG)], ids=["texts", "lists", "safe"])
def test_a_line_with_every_key_at_its_longest_is_bounded(entry: dict[str, Any]) -> None:
    for event in (Message.ASSOCIATION_REJECTED, "\x80" * 5000):
        assert set(check_json(event, entry)) >= FIELDS, "a key was left out instead of cut"
        check_console(event, entry)
        assert len(check_journal(event, entry)) >= len(FIELDS)


def test_a_line_that_is_too_long_says_what_was_cut() -> None:
    entry = {"dicom_calling_aet": "CT1", "result": 1, **dict.fromkeys(("advice", "detail"), '"' * 512)}
    entry |= dict.fromkeys(("contexts", "certificate_names", "config_errors", "rule", "listeners"), ['"' * 500] * 100)
    line = check_json("x", entry)
    assert (line["dicom_calling_aet"], line["result"]) == ("CT1", 1), "a short value was cut"
    assert line["contexts"][-1].startswith("… and ")
    assert "…" in check_console("x", entry)
    assert check_journal("x", entry)["DICOM_CALLING_AET"] == "CT1"


def test_a_long_traceback_keeps_its_end() -> None:
    entry = {"exception": error(), "module": "net"}
    assert check_json(Message.INTERNAL_ERROR, entry)["exception"].startswith("…")
    assert check_json(Message.INTERNAL_ERROR, entry)["exception_type"] == "TypeError"
    assert (
        check_journal(Message.INTERNAL_ERROR, entry)["DICOMD_EXCEPTION"].splitlines()[-1].startswith('TypeError: 8: ""')
    )
    check_console(Message.INTERNAL_ERROR, entry)


def test_a_line_that_can_t_be_rendered_costs_nothing_but_itself() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    entry = {"module": Unprintable()}
    assert check_json("x", entry)["event"] == "log record unreadable"
    check_console("x", entry)
    check_journal("x", entry)
