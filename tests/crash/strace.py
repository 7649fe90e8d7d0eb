"""System calls of a running daemon, watched or made to fail by strace.

The rule it keeps: strace attaches to what runs already and lets go of it afterwards, so the daemon is the same as ever.
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
    """A system call. `begun` and `ended` number all begins and ends in their order; `result` is "" if it had none."""

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
        """What the first argument leads to, a path for files."""
        match = _DESCRIPTOR.match(self.arguments)
        return match["path"] if match else ""

    @property
    def data(self) -> bytes:
        """The first string among the arguments, which was binary."""
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
            if call := unfinished.pop(thread, None):  # else it was begun before strace came
                call.arguments += resumed["arguments"]
                call.ended, call.result = number, resumed["result"]
        elif found := _CALL.fullmatch(parted["text"]):
            calls.append(Call(thread, found["name"], found["arguments"], number, number, found["result"] or ""))
            if found["result"] is None:
                unfinished[thread] = calls[-1]
    return calls


@contextlib.contextmanager
def attached(threads: Iterable[int | str], out: Path, *options: str) -> Iterator[None]:
    """Have strace watch these threads, or processes with the option -f, and write to `out`. Skips without strace."""
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
                pytest.skip("nobody may be traced here")
            assert "attached" in said, said
        deadline.cancel()
        yield
    finally:
        deadline.cancel()
        process.terminate()
        with contextlib.suppress(ValueError):
            process.communicate(timeout=_DEADLINE)
