"""Watches the system calls of a running daemon with strace, or makes them fail.

strace attaches to running processes and detaches afterwards, so the daemon under test is started in the ordinary way.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_DEADLINE = 30.0
_LINE = re.compile(r"(?:(?P<thread>\d+) +)?(?P<text>.*)", re.DOTALL)
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*?)(?:\) += (?P<result>-?\w+).*| <unfinished \.\.\.>)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<arguments>.*?)\) += (?P<result>-?\w+).*", re.DOTALL)
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>(?:\(deleted\))?, )?"(?P<name>(?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"\d+<(?P<path>[^>]*)>")


@dataclass
class Call:
    """A system call. `begun` and `ended` number all begins and ends in order; `result` is "" if it did not return."""

    thread: str
    name: str
    arguments: str
    begun: int
    ended: int
    result: str = ""

    @property
    def succeeded(self) -> bool:
        return self.result.isdigit()

    @property
    def paths(self) -> list[str]:
        """The absolute paths among the arguments, those relative to a descriptor resolved."""
        found = []
        for match in _PATH.finditer(self.arguments):
            name = match["name"]
            found.append(name if name.startswith("/") else f"{match['folder']}/{name}")
        return found

    @property
    def descriptor(self) -> str:
        """The target of the descriptor in the first argument; for files, a path."""
        match = _DESCRIPTOR.match(self.arguments)
        return match["path"] if match else ""

    @property
    def data(self) -> bytes:
        """The bytes of the first string among the arguments."""
        match = _PATH.search(self.arguments)
        return match["name"].encode("ascii").decode("unicode_escape").encode("latin-1") if match else b""


def parse(text: str) -> list[Call]:
    """The calls of a trace, in the order in which they began."""
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(text.splitlines()):
        parted = _LINE.fullmatch(line)
        assert parted is not None
        thread = parted["thread"] or ""
        if resumed := _RESUMED.fullmatch(parted["text"]):
            if call := unfinished.pop(thread, None):  # otherwise it began before strace attached
                call.arguments += resumed["arguments"]
                call.ended, call.result = number, resumed["result"]
        elif found := _CALL.fullmatch(parted["text"]):
            calls.append(Call(thread, found["name"], found["arguments"], number, number, found["result"] or ""))
            if found["result"] is None:
                unfinished[thread] = calls[-1]
    return calls


@contextlib.contextmanager
def attached(threads: Iterable[int | str], out: Path, *options: str) -> Iterator[None]:
    """Let strace trace these threads (with the option -f: processes) and write to `out`. Skips without strace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    wanted = [argument for thread in threads for argument in ("-p", str(thread))]
    process = subprocess.Popen(
        ["strace", "-y", "-o", out, *options, *wanted], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = threading.Timer(_DEADLINE, process.kill)
    deadline.start()
    try:
        assert process.stderr is not None
        for _ in wanted[::2]:
            said = process.stderr.readline()
            if "Operation not permitted" in said:
                pytest.skip("tracing is not permitted here")
            assert "attached" in said, said
        deadline.cancel()
        yield
    finally:
        deadline.cancel()
        process.terminate()
        with contextlib.suppress(ValueError):
            process.communicate(timeout=_DEADLINE)
