"""Tracebacks contain the place and kind of an error, but no data."""

import errno
import io
from collections.abc import Callable

import orjson
import pydicom
import pytest
from pydicom.multival import MultiValue

from dicomd.telemetry.fields import MAX_VALUE
from dicomd.telemetry.tracebacks import describe, render


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_frames_and_type_are_told_and_a_message_that_may_quote_data_is_not() -> None:
    def fail() -> None:
        raise ValueError("DOE^JOHN is no date")

    text = render(raised(fail))
    assert 'test_tracebacks.py", line' in text
    assert text.rstrip().endswith("ValueError")
    # The traceback quotes source lines, which contain the name here, so only the line of the message is checked.
    assert "DOE^JOHN" not in text.rstrip().splitlines()[-1]


def test_python_s_own_words_are_kept() -> None:
    assert describe(raised(lambda: [].nothing)) == "AttributeError: 'list' object has no attribute 'nothing'"  # type: ignore[attr-defined]


def test_a_system_error_is_told_without_its_file() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/store/DOE^JOHN/1.dcm")
    assert describe(error) == "OSError: No space left on device"


@pytest.mark.parametrize(
    "function",
    [
        lambda: pydicom.dcmread(io.BytesIO(b"DOE^JOHN" * 100)),
        lambda: MultiValue(int, ["DOE^JOHN"]),
        lambda: pydicom.Dataset().DOE_JOHN,
    ],
)
def test_what_a_reader_of_data_says_is_withheld(function: Callable[[], object]) -> None:
    error = raised(function)
    assert describe(error) in {type(error).__qualname__, "AttributeError"}


def test_causes_come_first() -> None:
    def fail() -> None:
        try:
            {}["a"]
        except KeyError as error:
            raise RuntimeError("b") from error

    text = render(raised(fail))
    assert text.index("KeyError") < text.index("RuntimeError")


def test_an_endless_traceback_is_bounded_and_keeps_its_end() -> None:
    def fail(depth: int) -> None:
        try:
            if depth:
                fail(depth - 1)
            [].index(depth)
        except (ValueError, TypeError) as error:
            raise TypeError(f"{depth}: " + '"' * 500) from error

    text = render(raised(lambda: fail(60)))
    assert len(orjson.dumps(text)) <= MAX_VALUE
    assert text.startswith("…")
    assert text.splitlines()[-1].startswith('TypeError: 60: ""')
