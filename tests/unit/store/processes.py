"""Programs that the tests of the store start as other processes using the same store.

python -m tests.unit.store.processes hold ROOT              two unfinished instances, then "ready", then wait
python -m tests.unit.store.processes fork ROOT              the same in a child made by fork, the parent having one too
python -m tests.unit.store.processes send ROOT POLICY SEED  "ready", wait for a line, store 30 instances, end
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from dicomd.store.filesystem import FileStore
from tests.unit.store.instances import data_set, file_store, identity, put

PROJECT = Path(__file__).parents[3]


class Process:
    """One of these programs, running. It is ended with the block at the latest."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.unit.store.processes", *map(str, arguments)]
        self.popen = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def wait_until_ready(self) -> int:
        """Wait for "ready" and return the process ID printed after it."""
        assert self.popen.stdout is not None
        word, _, pid = self.popen.stdout.readline().partition(" ")
        assert word == "ready"
        return int(pid)

    def go(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()


def _half_an_instance(store: FileStore, uid: str) -> None:
    data = memoryview(data_set(uid))[:-2]
    store.open(identity(uid)).write([data], len(data))


def _ready() -> None:
    sys.stdout.write(f"ready {os.getpid()}\n")
    sys.stdout.flush()


def hold(root: Path) -> None:
    store = file_store(root)
    _half_an_instance(store, "1.1")
    _half_an_instance(store, "1.2")
    _ready()
    signal.pause()


def fork(root: Path) -> None:
    store = file_store(root)
    _half_an_instance(store, "1.1")
    if os.fork() == 0:
        _half_an_instance(store, "1.3")
        _ready()
    signal.pause()


def send(root: Path, duplicates: str, seed: str) -> None:
    store = file_store(root, duplicates=duplicates)
    _ready()
    sys.stdin.readline()
    for number in range(30):
        uid = f"1.{number % 10}"
        put(store, data_set(uid, pixels=bytes([int(seed) % 2, number % 3])), identity(uid))
    store.close()


if __name__ == "__main__":
    {"hold": hold, "fork": fork, "send": send}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
