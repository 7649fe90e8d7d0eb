"""The control socket: whatever a client does, the process that serves it never waits."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicomd.supervisor import control
from dicomd.supervisor.control import Caller, ControlSocket, NoDaemonError, ask
from tests.support.waiting import wait_until

WAIT = b'{"command": "wait"}\n'
MOST = 32
"""Connections that may be sending or receiving, and commands that may be waiting for an answer."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose path is too long for a socket address."""
    found = tmp_path / ("long" * 30)
    found.mkdir()
    return found


@contextmanager
def serving(folder: Path, handler: Callable[[dict[str, Any], Caller], None]) -> Iterator[ControlSocket]:
    """Serve in a loop like the supervisor's, whose iterations are timed."""
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


def echo(request: dict[str, Any], caller: Caller) -> None:
    caller.answer({"ok": True, "request": request})


class Waiting:
    """A handler that answers all requests but "wait", whose callers it keeps."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []

    def __call__(self, request: dict[str, Any], caller: Caller) -> None:
        if request.get("command") == "wait":
            self.callers.append(caller)
        else:
            caller.answer({"ok": True})


@contextmanager
def address(folder: Path) -> Iterator[str]:
    """A path to the socket in `folder` that fits into an address."""
    fd = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{fd}/control"
    finally:
        os.close(fd)


def connected(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    with address(folder) as path:
        sock.connect(path)
    return sock


def connected_and_sent(folder: Path, data: bytes) -> socket.socket:
    sock = connected(folder)
    sock.sendall(data)
    return sock


def test_a_request_is_answered(folder: Path) -> None:
    with serving(folder, echo):
        assert ask(folder, {"command": "x"}, timeout=10) == {"ok": True, "request": {"command": "x"}}
        assert (folder / "control").stat().st_mode & 0o777 == 0o660
    assert not (folder / "control").exists()


def test_an_answer_may_come_later(folder: Path) -> None:
    waiting = Waiting()
    with serving(folder, waiting), connected(folder) as sock:
        sock.sendall(WAIT)
        wait_until(lambda: waiting.callers)
        waiting.callers[0].answer({"ok": True})
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
    monkeypatch.setattr(control, "_CLIENT_TIMEOUT", 0.2)
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
    waiting = Waiting()
    with serving(folder, waiting):
        connected(folder).close()
        with connected(folder) as sock:
            sock.sendall(WAIT)
            wait_until(lambda: waiting.callers)
        waiting.callers[0].answer({"ok": True, "padding": "x" * 1_000_000})
        with connected(folder) as sock:
            sock.sendall(WAIT)
            wait_until(lambda: len(waiting.callers), equals=2)
            waiting.callers[1].answer({"ok": True})
            assert sock.recv(100) == b'{"ok":true}\n'


def test_one_that_waits_and_hangs_up_is_gone(folder: Path) -> None:
    waiting = Waiting()
    with serving(folder, waiting) as server:
        for _ in range(100):
            connected_and_sent(folder, WAIT).close()
        wait_until(lambda: len(waiting.callers) == 100 and all(caller.gone for caller in waiting.callers))
        wait_until(lambda: len(server.sources()), equals=1)
        waiting.callers[0].answer({"ok": True})  # the caller is gone


def test_one_that_ends_its_request_with_the_end_of_its_side_is_answered(folder: Path) -> None:
    """As socat and nc do: they close their sending side after the request."""
    waiting = Waiting()
    with serving(folder, waiting), connected_and_sent(folder, WAIT) as sock:
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: waiting.callers)
        assert ask(folder, {}, timeout=10)["ok"]
        assert not waiting.callers[0].gone
        waiting.callers[0].answer({"ok": True})
        assert sock.recv(100) == b'{"ok":true}\n'


def test_those_who_wait_leave_places_for_others_and_the_oldest_is_told_where_they_are_too_many(folder: Path) -> None:
    waiting = Waiting()
    with serving(folder, waiting), ExitStack() as stack:
        socks = []
        for _ in range(MOST + 1):
            socks.append(stack.enter_context(connected_and_sent(folder, WAIT)))
            wait_until(lambda: len(waiting.callers), equals=len(socks))
            assert ask(folder, {}, timeout=10)["ok"]
        assert f"more than {MOST} commands are waiting" in json.loads(socks[0].recv(1000))["error"]
        waiting.callers[0].answer({"ok": True})  # it has already been answered
        assert socks[0].recv(10) == b""
        waiting.callers[1].answer({"ok": True})
        assert socks[1].recv(100) == b'{"ok":true}\n'


@pytest.mark.parametrize("sent", [b"", b'{"command": '], ids=["nothing", "half a request"])
def test_a_thousand_connections_that_never_come_to_the_point_keep_nobody_out(folder: Path, sent: bytes) -> None:
    with serving(folder, echo) as server, ExitStack() as stack:
        for _ in range(10):
            for _ in range(100):
                stack.enter_context(connected_and_sent(folder, sent))
            assert ask(folder, {}, timeout=4.0)["ok"]  # less than the time limit of the stalled callers
        wait_until(lambda: len(server.sources()), until=lambda count: count <= 1 + MOST + 64)


def test_connections_that_never_read_their_answer_keep_nobody_out(folder: Path) -> None:
    def talkative(request: dict[str, Any], caller: Caller) -> None:
        caller.answer({"ok": True, "padding": "x" * request.get("length", 0)})

    with serving(folder, talkative), ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connected_and_sent(folder, b'{"length": 1000000}\n'))
        assert ask(folder, {}, timeout=4.0)["ok"]


def test_the_user_who_has_most_connections_makes_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [0, 7, 1, 7, *([7, 0] * 14), 7]  # one connection more than there may be
    connecting = iter(users)

    def credentials(_sock: socket.socket, *_option: int) -> bytes:
        return struct.pack("3i", 1, next(connecting), 1)

    monkeypatch.setattr(socket.socket, "getsockopt", credentials)
    with serving(folder, echo) as server, ExitStack() as stack:
        socks = [stack.enter_context(connected(folder)) for _ in users]
        oldest = socks.pop(users.index(7))
        assert oldest.recv(1) == b""
        wait_until(lambda: len(server.sources()), equals=1 + MOST)
        for sock in socks:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still open
                sock.recv(1)


def test_nobody_there_is_a_sentence(folder: Path) -> None:
    with pytest.raises(NoDaemonError, match="no daemon answers at"):
        ask(folder, {}, timeout=1)
    with pytest.raises(NoDaemonError, match="no daemon answers at"):
        ask(folder / "missing", {}, timeout=1)


def test_a_socket_whose_backlog_is_full_is_waited_for(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, address(folder) as path, ExitStack() as stack:
        server.bind(path)
        server.listen(0)
        first = stack.enter_context(connected(folder))
        with pytest.raises(NoDaemonError, match=r"gave no answer within 0\.2 s"):
            ask(folder, {}, timeout=0.2)
        freed = threading.Timer(0.2, lambda: stack.enter_context(server.accept()[0]))
        freed.start()
        with pytest.raises(NoDaemonError, match=r"gave no answer within 1 s"):  # connected, but without an answer
            ask(folder, {}, timeout=1)
        freed.join()
        assert first.fileno() >= 0


def test_a_daemon_that_gives_no_answer_is_a_sentence(folder: Path) -> None:
    with (
        serving(folder, lambda _request, _caller: None),
        pytest.raises(NoDaemonError, match=r"gave no answer within 0\.2 s"),
    ):
        ask(folder, {}, timeout=0.2)
