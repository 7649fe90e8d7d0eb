"""Renders an exception as text that quotes no data.

Invariant: frames and types are always written, messages only if Python itself words them. A library's ``ValueError``
may quote the attribute it could not read, which may be a patient's name.
"""

import os
import traceback
from types import TracebackType
from typing import Final

from dicomd.telemetry.fields import MAX_VALUE, cut_front, safe_text

# The interpreter words these from names in the source, unless a library that reads data sets raised them.
_WORDED_BY_PYTHON: Final = (
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    MemoryError,
    RecursionError,
    AssertionError,
)
_READERS_OF_DATA: Final = ("pydicom", "pynetdicom")
_MAX_CAUSES: Final = 8


def describe(error: BaseException) -> str:
    """One line: the exception's type, and its message if it can't quote data."""
    name = type(error).__qualname__
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: {os.strerror(error.errno)}"  # without the file's name, which may be any path
    if isinstance(error, _WORDED_BY_PYTHON) and not _raised_by_a_reader_of_data(error):
        return f"{name}: {safe_text(str(error))}" if str(error) else name
    return name


def render(exception: BaseException) -> str:
    """The exception's traceback, after those of its causes; if it is too long for a field, the end of it."""
    error: BaseException | None = exception
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen and len(seen) < _MAX_CAUSES:
        seen.add(id(error))
        parts.append(_one(error, error.__traceback__))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    text = "\n\nThe above exception was the cause of, or being handled during, the next:\n\n".join(reversed(parts))
    return cut_front(text, MAX_VALUE)


def _one(error: BaseException, tb: TracebackType | None) -> str:
    frames = "".join(traceback.format_tb(tb))
    return f"Traceback (most recent call last):\n{frames}{describe(error)}"


def _raised_by_a_reader_of_data(error: BaseException) -> bool:
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return tb is not None and str(tb.tb_frame.f_globals.get("__name__")).startswith(_READERS_OF_DATA)
