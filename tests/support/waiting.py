"""Waits until something is so: the one loop with a deadline that all tests share."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_ANYTHING_TRUE = object()
_MOST = 2000
"""Characters of what was seen that a message contains."""


def wait_until(
    look: Callable[[], T],
    deadline: float = 20.0,
    *,
    equals: object = _ANYTHING_TRUE,
    until: Callable[[T], object] = bool,
    what: str = "the condition was not fulfilled in time",
    pause: float = 0.01,
    failed: Callable[[str], BaseException] = AssertionError,
) -> T:
    """Look every `pause` seconds until what is seen is true, or `equals` this, or fulfils `until`; return it.

    Raises `failed` (AssertionError) after `deadline` seconds. Its message contains `what` is wrong in words, the source
    of `look`, and what was seen last. Whatever `look` raises ends the wait at once.
    """
    ends = time.monotonic() + deadline
    while True:
        seen = look()
        if until(seen) if equals is _ANYTHING_TRUE else seen == equals:
            return seen
        if time.monotonic() >= ends:
            wanted = "" if equals is _ANYTHING_TRUE else f", not {equals!r:.{_MOST}}"
            raise failed(f"{what}: waited {deadline:g} s for `{_source(look)}`, and saw {seen!r:.{_MOST}} last{wanted}")
        time.sleep(pause)


def _source(function: Callable[[], object]) -> str:
    """The source of a function or of the statement around a lambda, on one line; the name of any other callable."""
    if inspect.isfunction(function):
        try:
            return " ".join(inspect.getsource(function).split())
        except OSError:  # not from a file
            pass
    return getattr(function, "__qualname__", repr(function))
