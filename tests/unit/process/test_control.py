"""The control socket: whatever a client does, the one who serves it never waits."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicomd.process import control
from dicomd.process.control import Answer, ControlSocket, NoDaemonError, ask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One whose path is too long for a socket's address."""
    found = tmp_path / ("long" * 30)
    found.mkdir()
    return found


@contextmanager
def serving(
    folder: Path, handler: Callable[[dict[str, Any], Callable[[Answer], None]], None]
) -> Iterator[ControlSocket]:
    """A loop like the supervisor's, whose turns are timed."""
    server = ControlSocket(folder, handler)
    over = threading.Event()
    longest = 0.0

    def loop() -> None:
        nonlocal longest
        while not over.is_set():
            poller = select.poll()
            for fd, events in server.sources():
                poller.register(fd, events)
            poller.poll(20)
            began = time.thread_time()
            server.tend(time.monotonic())
            longest = max(longest, time.thread_time() - began)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield server
    finally:
        over.set()
        thread.join()
        server.remove()
    assert longest < 1.0


def echo(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
    answer({"ok": True, "request": request})


def connected(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    with control._short_path(folder) as path:
        sock.connect(path)
    return sock


def test_a_request_is_answered(folder: Path) -> None:
    with serving(folder, echo):
        assert ask(folder, {"command": "x"}, timeout=10) == {"ok": True, "request": {"command": "x"}}
        assert (folder / "control").stat().st_mode & 0o777 == 0o660
    assert not (folder / "control").exists()


def test_an_answer_may_come_later(folder: Path) -> None:
    answers: list[Callable[[Answer], None]] = []
    with serving(folder, lambda _request, answer: answers.append(answer)), connected(folder) as sock:
        sock.sendall(b"{}\n")
        deadline = time.monotonic() + 10
        while not answers:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        answers[0]({"ok": True})
        assert sock.recv(100) == b'{"ok":true}\n'
        assert sock.recv(100) == b""


def test_a_request_in_single_bytes_is_one_request(folder: Path) -> None:
    with serving(folder, echo), connected(folder) as sock:
        for byte in b'{"a": 1}\n':
            sock.sendall(bytes([byte]))
        assert json.loads(sock.recv(1000)) == {"ok": True, "request": {"a": 1}}


@pytest.mark.parametrize("line", [b"rubbish\n", b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_what_is_no_request_is_told_so(folder: Path, line: bytes) -> None:
    with serving(folder, echo), connected(folder) as sock:
        sock.sendall(line)
        assert json.loads(sock.recv(1000))["ok"] is False


def test_clients_that_say_nothing_or_too_much_are_cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.2)
    with serving(folder, echo):
        silent = [connected(folder) for _ in range(10)]
        with connected(folder) as chatty:
            chatty.sendall(b"x" * 4096)
            assert chatty.recv(10) == b""
        assert ask(folder, {}, timeout=10)["ok"]
        for sock in silent:
            assert sock.recv(10) == b""
            sock.close()


def test_a_client_that_leaves_before_its_answer_harms_nobody(folder: Path) -> None:
    answers: list[Callable[[Answer], None]] = []
    with serving(folder, lambda _request, answer: answers.append(answer)):
        connected(folder).close()
        with connected(folder) as sock:
            sock.sendall(b"{}\n")
            deadline = time.monotonic() + 10
            while not answers:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        answers[0]({"ok": True, "padding": "x" * 1_000_000})
        with connected(folder) as sock:
            sock.sendall(b"{}\n")
            while len(answers) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            answers[1]({"ok": True})
            assert sock.recv(100) == b'{"ok":true}\n'


def test_nobody_there_is_a_sentence(folder: Path) -> None:
    with pytest.raises(NoDaemonError, match="no daemon answers at"):
        ask(folder, {}, timeout=1)
    with pytest.raises(NoDaemonError, match="no daemon answers at"):
        ask(folder / "missing", {}, timeout=1)


def test_a_daemon_that_gives_no_answer_is_a_sentence(folder: Path) -> None:
    with (
        serving(folder, lambda _request, _answer: None),
        pytest.raises(NoDaemonError, match=r"gave no answer within 0\.2 s"),
    ):
        ask(folder, {}, timeout=0.2)
