"""Memory and CPU of a tree of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench import processes

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
for line in sys.stdin:
    if line == "grow\\n":
        block = bytearray(b"x") * 50_000_000
        del block
    else:
        sum(range(8_000_000))
    print("done", flush=True)
child.stdin.close()
child.wait()
"""


@pytest.fixture
def parent() -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield process, int(process.stdout.readline())
        process.stdin.close()
        process.wait(10)


def ask(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    assert process.stdout.readline() == "done\n"


def test_a_tree_holds_the_process_and_its_descendants(parent: tuple[subprocess.Popen[str], int]) -> None:
    process, child = parent
    assert sorted(processes.tree(process.pid)) == sorted([process.pid, child])


def test_a_process_that_is_gone_has_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(20)
    assert processes.tree(gone.pid) == []
    assert processes.memory(gone.pid) == 0
    assert processes.cpu_seconds(gone.pid) == 0


def test_cpu_time_is_that_of_the_process(parent: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = parent
    before = processes.cpu_seconds(process.pid)
    ask(process, "compute")
    assert processes.cpu_seconds(process.pid) > before
    own = processes.cpu_seconds(os.getpid())
    assert own >= time.process_time() * 0.9


def test_a_peak_is_seen_after_the_memory_is_given_back(parent: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = parent
    with processes.PeakMemory(process.pid) as peak:
        ask(process, "grow")
    assert 45_000_000 < peak.delta < 80_000_000
