"""The control socket: what an administrator's command asks of the running daemon.

One line of JSON in, one line of JSON out, then the connection ends: ``{"command": "maintenance", "on": true}`` and
``{"ok": true}``, or ``{"ok": false, "error": "a sentence"}``. Who may connect is the socket's mode and owner.

The rule it keeps: the supervisor never waits for a client. Clients are few, their lines short, and those that don't
come to the point are cut off.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

NAME = "control"
_MODE = 0o660
_MAX_CLIENTS = 8
_BACKLOG = 64  # of those that wait for one of the eight to be through
_MAX_REQUEST = 4096  # bytes
_MAX_ANSWER = 1024 * 1024
_PATIENCE = 5.0  # seconds for a client to send its line, and to take the answer

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any], Callable[[Answer], None]], None]
"""Gets a request, and what to call with the answer, now or later."""


class NoDaemonError(Exception):
    """No daemon can be reached there; the message says why."""


@dataclass(slots=True, eq=False)
class _Client:
    sock: socket.socket
    deadline: float | None
    """None while the answer is the daemon's to give."""
    request: bytearray = field(default_factory=bytearray)
    answer: bytes = b""

    @property
    def waits(self) -> bool:
        return self.deadline is None


class ControlSocket:
    """Listens in `folder`; the supervisor's loop waits for `sources` and calls `tend`. Raises OSError."""

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._folder, self._handler = folder, handler
        self._clients: list[_Client] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (folder / NAME).unlink(missing_ok=True)
        with _short_path(folder) as path:
            self._sock.bind(path)
        (folder / NAME).chmod(_MODE)
        self._sock.listen(_BACKLOG)
        self._sock.setblocking(False)

    def sources(self) -> list[tuple[int, int]]:
        """Descriptors to wait for, and the events (poll(2))."""
        listening = [(self._sock.fileno(), select.POLLIN)] if len(self._clients) < _MAX_CLIENTS else []
        return listening + [
            (client.sock.fileno(), select.POLLOUT if client.answer else select.POLLIN)
            for client in self._clients
            if not client.waits
        ]

    def tend(self, now: float) -> None:
        """Accept, read, answer, cut off. Never waits."""
        with contextlib.suppress(OSError):  # nobody there any more, or no descriptor for them
            while len(self._clients) < _MAX_CLIENTS:
                sock, _ = self._sock.accept()
                sock.setblocking(False)
                self._clients.append(_Client(sock, now + _PATIENCE))
        for client in list(self._clients):
            if client.waits:
                continue
            if client.deadline is not None and now > client.deadline:
                self._drop(client)
            else:
                self._serve(client)

    def close(self) -> None:
        """Close everything in this process."""
        self._sock.close()
        for client in self._clients:
            client.sock.close()

    def remove(self) -> None:
        """Close, and take the socket away: the daemon ends."""
        self.close()
        (self._folder / NAME).unlink(missing_ok=True)

    def _serve(self, client: _Client) -> None:
        try:
            if not client.answer:
                self._read(client)
            if client.answer:
                client.answer = client.answer[client.sock.send(client.answer) :]
                if not client.answer:
                    self._drop(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        data = client.sock.recv(_MAX_REQUEST)
        client.request += data
        line, newline, _ = client.request.partition(b"\n")
        if newline:
            client.deadline = None
            self._handle(client, bytes(line))
        elif not data or len(client.request) >= _MAX_REQUEST:
            self._drop(client)

    def _handle(self, client: _Client, line: bytes) -> None:
        def answer(content: Answer) -> None:
            client.answer = orjson.dumps(content) + b"\n"
            client.deadline = time.monotonic() + _PATIENCE

        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            request = None
        if isinstance(request, dict):
            self._handler(request, answer)
        else:
            answer({"ok": False, "error": "the request is not a JSON object"})

    def _drop(self, client: _Client) -> None:
        client.sock.close()
        self._clients.remove(client)


def ask(folder: Path, request: dict[str, Any], *, timeout: float) -> Answer:
    """Ask the daemon whose runtime folder this is; `timeout` in seconds for the whole. Raises `NoDaemonError`."""
    ends = time.monotonic() + timeout
    try:
        with _short_path(folder) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(path)
            sock.sendall(orjson.dumps(request) + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                sock.settimeout(max(0.001, ends - time.monotonic()))
                data = sock.recv(65536)
                if not data or len(line) > _MAX_ANSWER:
                    raise NoDaemonError(f"the daemon at {folder / NAME} broke off without an answer")
                line += data
            found = orjson.loads(line)
    except TimeoutError as error:
        raise NoDaemonError(f"the daemon at {folder / NAME} gave no answer within {timeout:g} s") from error
    except OSError as error:
        raise NoDaemonError(f"no daemon answers at {folder / NAME}: {error.strerror}") from error
    return found if isinstance(found, dict) else {}


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """The socket's path by way of a descriptor of its folder: sun_path has 108 bytes, paths may have more."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
