"""Runs one target under atheris (`python -m tests.fuzz.coverage_guided TARGET [libFuzzer options]`).

Each process runs one target, since libFuzzer ends the process it runs in. The code that parses the bytes is
instrumented: dicomd, and the decoders of pynetdicom that it uses.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["dicomd", "pynetdicom.pdu", "pynetdicom.pdu_items", "tomllib"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Never returns: libFuzzer ends the process, with status 0 if it has found nothing."""
    program, target, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
