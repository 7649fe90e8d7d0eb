"""The control socket, over which an administrator's commands reach the running daemon.

A client sends one line of JSON, gets one line of JSON, and the connection ends: ``{"command": "maintenance", "on":
true}`` and ``{"ok": true}``, or ``{"ok": false, "error": "a sentence"}``. The socket's mode and owner decide who may
connect.

Two invariants. The supervisor never waits for a client: one that sends nothing or half a line, or doesn't read its
answer, is disconnected after `_CLIENT_TIMEOUT`. And no client can keep others out: clients whose answer takes time,
such as that of a reload, are counted separately, and if there are too many connections, the oldest one of the user who
has most of them is closed. It is never that of a dicomd command, which sends its line at once and is answered at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

NAME = "control"
_MODE = 0o660
_MAX_TALKING: Final = 32
"""The most connections that are sending their request or receiving their answer."""
_MAX_WAITING: Final = 32
"""The most connections that wait for the daemon's answer, however long that takes."""
_ACCEPTED_PER_TURN: Final = 64
_BACKLOG: Final = 1024
_MAX_REQUEST: Final = 4096  # bytes
_MAX_ANSWER: Final = 1024 * 1024
_CLIENT_TIMEOUT = 5.0  # seconds for a client to send its line, and again to read the answer
_PAUSE: Final = 0.02  # seconds between two tries to connect
_PEER_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): process, user, group

Answer = dict[str, Any]


@dataclass(slots=True, eq=False)
class Caller:
    """A connection and the user at its other end; see `answer`."""

    sock: socket.socket
    user: int
    """User ID, as reported by the kernel."""
    deadline: float
    request: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    """The part of the answer that is still to be sent."""
    waits: bool = False
    """Whether its request has been read but not answered yet."""
    gone: bool = False
    """Whether the connection is closed, so that an answer would reach nobody."""

    def answer(self, content: Answer) -> None:
        """Answer the request, at once or later. Only the first answer counts, and none if the connection is closed."""
        if self.waits:
            self.waits = False
            self.unsent = orjson.dumps(content) + b"\n"
            self.deadline = time.monotonic() + _CLIENT_TIMEOUT


Handler = Callable[[dict[str, Any], Caller], None]
"""Handles a request, and answers its caller at once or later."""


class NoDaemonError(Exception):
    """The daemon can't be reached; the message says why."""


class ControlSocket:
    """Listens in `folder`. The supervisor's loop polls `sources` and calls `tend`. Raises OSError."""

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._folder = folder
        self._handler = handler
        self._callers: list[Caller] = []  # the oldest first
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (folder / NAME).unlink(missing_ok=True)
        with _short_path(folder) as path:
            self._sock.bind(path)
        (folder / NAME).chmod(_MODE)
        self._sock.listen(_BACKLOG)
        self._sock.setblocking(False)

    def sources(self) -> list[tuple[int, int]]:
        """Return the descriptors and events to poll(2) for. A caller that waits has no events: it can only hang up."""
        return [(self._sock.fileno(), select.POLLIN)] + [
            (caller.sock.fileno(), 0 if caller.waits else select.POLLOUT if caller.unsent else select.POLLIN)
            for caller in self._callers
        ]

    def tend(self, now: float) -> None:
        """Accept connections, read requests, send answers, and close what is late. Never waits."""
        for caller in self._hung_up():
            self._drop(caller)
        for caller in list(self._callers):
            self._serve(caller)
            if not caller.gone and not caller.waits and now > caller.deadline:
                self._drop(caller)
        with contextlib.suppress(OSError):  # no more connections are pending, or no descriptors are left
            for _ in range(_ACCEPTED_PER_TURN):
                self._accept(now)

    def close(self) -> None:
        """Close everything in this process."""
        self._sock.close()
        for caller in self._callers:
            caller.sock.close()

    def remove(self) -> None:
        """Close everything and remove the socket, at the end of the daemon."""
        self.close()
        (self._folder / NAME).unlink(missing_ok=True)

    def _accept(self, now: float) -> None:
        sock, _ = self._sock.accept()
        sock.setblocking(False)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        _, user, _ = _PEER_CREDENTIALS.unpack(credentials)
        caller = Caller(sock, user, now + _CLIENT_TIMEOUT)
        self._callers.append(caller)
        self._serve(caller)
        talking = [other for other in self._callers if not other.waits]
        if len(talking) > _MAX_TALKING:
            self._drop(_dispensable(talking))
        waiting = [other for other in self._callers if other.waits]
        if len(waiting) > _MAX_WAITING:
            dropped = _dispensable(waiting)
            dropped.answer({"ok": False, "error": f"more than {_MAX_WAITING} commands are waiting for an answer"})
            self._serve(dropped)

    def _hung_up(self) -> list[Caller]:
        """Return the callers that have hung up while waiting for an answer."""
        waiting = {caller.sock.fileno(): caller for caller in self._callers if caller.waits}
        poller = select.poll()
        for fd in waiting:
            poller.register(fd, 0)
        return [waiting[fd] for fd, _ in poller.poll(0)]

    def _serve(self, caller: Caller) -> None:
        try:
            if not caller.unsent and not caller.waits:
                self._read(caller)
            if caller.unsent:
                caller.unsent = caller.unsent[caller.sock.send(caller.unsent) :]
                if not caller.unsent:
                    self._drop(caller)
        except BlockingIOError:
            return
        except OSError:
            self._drop(caller)

    def _read(self, caller: Caller) -> None:
        data = caller.sock.recv(_MAX_REQUEST)
        caller.request += data
        line, newline, _ = caller.request.partition(b"\n")
        if newline:
            self._handle(caller, bytes(line))
        elif not data or len(caller.request) >= _MAX_REQUEST:
            self._drop(caller)

    def _handle(self, caller: Caller, line: bytes) -> None:
        caller.waits = True
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            request = None
        if isinstance(request, dict):
            self._handler(request, caller)
        else:
            caller.answer({"ok": False, "error": "the request is not a JSON object"})

    def _drop(self, caller: Caller) -> None:
        caller.gone = True
        caller.waits = False
        caller.sock.close()
        self._callers.remove(caller)


def _dispensable(callers: list[Caller]) -> Caller:
    """Return the oldest caller of the user who has the most."""
    ((user, _),) = Counter(caller.user for caller in callers).most_common(1)
    return next(caller for caller in callers if caller.user == user)


def ask(folder: Path, request: dict[str, Any], *, timeout: float) -> Answer:
    """Send a request to the daemon whose runtime folder is `folder`, and return its answer.

    `timeout` is in seconds and covers everything. Raises `NoDaemonError`.
    """
    ends = time.monotonic() + timeout
    try:
        with _short_path(folder) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            _connect(sock, path, ends)
            sock.sendall(orjson.dumps(request) + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                sock.settimeout(max(0.001, ends - time.monotonic()))
                data = sock.recv(65536)
                if not data or len(line) > _MAX_ANSWER:
                    raise NoDaemonError(f"the daemon at {folder / NAME} closed the connection without an answer")
                line += data
            found = orjson.loads(line)
    except TimeoutError as error:
        raise NoDaemonError(f"the daemon at {folder / NAME} gave no answer within {timeout:g} s") from error
    except PermissionError as error:
        allowed = "root, the daemon's user and members of the group that owns it"
        raise NoDaemonError(f"{folder / NAME} may be used by {allowed}, not by this user") from error
    except OSError as error:
        raise NoDaemonError(f"no daemon answers at {folder / NAME}: {error.strerror}") from error
    return found if isinstance(found, dict) else {}


def _connect(sock: socket.socket, path: str, ends: float) -> None:
    """Connect, and try again while the backlog is full, which is an error for a socket with a timeout."""
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise TimeoutError from None
            time.sleep(_PAUSE)
        else:
            return


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Yield a path to the socket by way of a descriptor of its folder, since sun_path is limited to 108 bytes."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
