"""Measures work by what it does, not by the time it takes, which depends on the load of the machine."""

import sys
from collections.abc import Callable


def calls(work: Callable[[], object]) -> int:
    """The number of function calls that some work makes, including those of built-in functions."""
    found = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found
