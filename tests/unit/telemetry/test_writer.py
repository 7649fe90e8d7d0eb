"""Logging never blocks reception, even if the reader of the log is gone, stopped, slow or forked."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dicomd.telemetry import writer as writer_module
from dicomd.telemetry.writer import ROOM_TIMEOUT, DescriptorWriter
from tests.support.processes import descriptors


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


class Pipe:
    """A pipe of two pages, and a writer to it."""

    def __init__(self) -> None:
        self.reader, self.end = os.pipe()
        fcntl.fcntl(self.end, fcntl.F_SETPIPE_SZ, 8192)
        self.lost = 0
        self.writer = DescriptorWriter(self.end, notice=lambda n: line(lost=n), on_lost=self._count)

    def _count(self) -> None:
        self.lost += 1

    def read(self) -> bytes:
        """Everything that is in the pipe now."""
        os.set_blocking(self.reader, False)
        parts = []
        while True:
            try:
                parts.append(os.read(self.reader, 65536))
            except BlockingIOError:
                return b"".join(parts)
            if not parts[-1]:
                return b"".join(parts)


@pytest.fixture(params=["own", "another user's"])
def pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    if request.param != "own":  # opening it through /proc is refused; simulated, because root would be allowed

        def refuse(*_: Any) -> int:
            raise PermissionError

        monkeypatch.setattr(writer_module.os, "open", refuse)
    made = Pipe()
    monkeypatch.undo()
    yield made
    made.writer.close()
    for fd in (made.reader, made.end):
        try:
            os.close(fd)
        except OSError:
            continue


def within(seconds: float, function: Callable[[], object]) -> None:
    """Run a function in a thread, so that a write that blocks fails this test instead of hanging it."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the write blocks"


def test_a_line_is_there_when_the_call_returns(pipe: Pipe) -> None:
    pipe.writer.msg(line(a=1))
    assert pipe.read() == line(a=1)


def test_a_reader_that_has_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.reader)
    for _ in range(3):
        pipe.writer.msg(line(a=1))
    assert pipe.lost == 3


def test_a_reader_that_has_stopped_costs_its_patience_once_and_then_only_lines(pipe: Pipe) -> None:
    started = time.monotonic()
    within(10 * ROOM_TIMEOUT + 5, lambda: [pipe.writer.msg(line(n=n, text="x" * 100)) for n in range(500)])
    assert time.monotonic() - started < 10 * ROOM_TIMEOUT + 5
    assert pipe.lost > 400
    kept = pipe.read().splitlines()
    assert [json.loads(text)["n"] for text in kept] == list(range(500 - pipe.lost))


def test_the_next_line_that_gets_through_says_how_many_were_lost(pipe: Pipe) -> None:
    within(10, lambda: [pipe.writer.msg(line(n=n, text="x" * 100)) for n in range(100)])
    lost = pipe.lost
    pipe.read()
    pipe.writer.msg(line(again=True))
    pipe.writer.msg(line(again=True))
    assert [json.loads(text) for text in pipe.read().splitlines()] == [{"lost": lost}, {"again": True}, {"again": True}]


def test_a_line_longer_than_the_pipe_reaches_a_slow_reader_whole(pipe: Pipe) -> None:
    received = bytearray()

    def read_slowly() -> None:
        while not received.endswith(b"\n"):
            received.extend(os.read(pipe.reader, 1000))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    pipe.writer.msg(line(text="x" * 100_000))
    reader.join(20)
    assert bytes(received) == line(text="x" * 100_000)
    assert pipe.lost == 0


def test_a_line_cut_off_does_not_spoil_the_next(pipe: Pipe) -> None:
    within(10, lambda: pipe.writer.msg(line(text="x" * 100_000)))
    assert pipe.lost == 1
    cut = pipe.read()
    assert cut == line(text="x" * 100_000)[: len(cut)]
    pipe.writer.msg(line(whole=True))
    assert pipe.read() == b"\n" + line(lost=1) + line(whole=True)


def test_the_shell_s_own_descriptor_stays_blocking(pipe: Pipe) -> None:
    pipe.writer.msg(b"x\n")
    assert os.get_blocking(pipe.end)


def test_closing_stderr_does_not_close_the_log(pipe: Pipe) -> None:
    os.close(pipe.end)
    pipe.writer.msg(line(a=1))
    assert pipe.read() == line(a=1)


def test_a_closed_writer_writes_nowhere(pipe: Pipe) -> None:
    before = descriptors(os.getpid())
    pipe.writer.close()
    after = descriptors(os.getpid())
    (closed,) = (fd for fd, target in before.items() if target.startswith("pipe:") and after.get(fd) != target)
    taken = os.dup2(pipe.reader, closed)  # as a stored file might get this number
    pipe.writer.msg(line(a=1))
    os.close(taken)
    assert pipe.lost == 1


def test_a_socket_that_nobody_reads_costs_lines_only() -> None:
    ours, theirs = socket.socketpair()
    lost: list[int] = []
    with ours, theirs:
        writer = DescriptorWriter(ours.fileno(), notice=lambda n: line(lost=n), on_lost=lambda: lost.append(1))
        within(10, lambda: [writer.msg(line(n=n, text="x" * 1000)) for n in range(3000)])
        assert lost
        assert ours.getblocking()
        writer.close()
        assert ours.fileno() >= 0


def test_threads_and_forked_workers_never_interleave_their_lines() -> None:
    script = """
import os, threading
from dicomd.telemetry.logs import configure_logging, get_logger
configure_logging("json", "info")
log = get_logger()
def write(worker, thread):
    bound = log.bind(dicomd_worker=worker, thread=str(thread))
    for n in range(300):
        bound.info("instance stored", count=n, detail="x" * (n % 500))
children = []
for worker in range(3):
    if (pid := os.fork()) == 0:
        threads = [threading.Thread(target=write, args=(worker, t)) for t in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
        os._exit(0)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    lines = [json.loads(text) for text in done.stderr.splitlines()]
    counts: dict[tuple[int, str], list[int]] = {}
    for entry in lines:
        counts.setdefault((entry["dicomd_worker"], entry["thread"]), []).append(entry["count"])
    assert len(counts) == 9
    assert all(values == list(range(300)) for values in counts.values())


def test_a_fork_while_another_thread_writes_leaves_the_child_a_log() -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from dicomd.telemetry import logs
logs.configure_logging("json", "info")
log = logs.get_logger()
logs._writer._lock.acquire()
if (pid := os.fork()) == 0:
    log.info("child")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=20)
    assert [json.loads(text)["event"] for text in done.stderr.splitlines()] == ["child"]
