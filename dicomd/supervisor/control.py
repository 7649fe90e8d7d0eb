"""The control socket: what an administrator's command asks of the running daemon.

One line of JSON in, one line of JSON out, then the connection ends: ``{"command": "maintenance", "on": true}`` and
``{"ok": true}``, or ``{"ok": false, "error": "a sentence"}``. Who may connect is the socket's mode and owner.

Two invariants. The supervisor never waits for a client: a client that sends nothing, half a line, or never reads its
answer is cut off after `_CLIENT_TIMEOUT`. And no client keeps another one out: those whose answer takes time, as that
of a reload does, have places of their own, and where there are too many connections, one of the user who has most of
them makes room. A command sends its line as it connects and is answered at once, so it is never that one.
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
"""Connections whose request or answer is on its way."""
_MAX_WAITING: Final = 32
"""Connections whose answer is the daemon's to give, as long as it takes."""
_ACCEPTED_PER_TURN: Final = 64
_BACKLOG: Final = 1024
_MAX_REQUEST: Final = 4096  # bytes
_MAX_ANSWER: Final = 1024 * 1024
_CLIENT_TIMEOUT = 5.0  # seconds for a client to send its line, and to take the answer
_PAUSE: Final = 0.02  # seconds between two tries to connect
_PEER_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): process, user, group

Answer = dict[str, Any]


@dataclass(slots=True, eq=False)
class Caller:
    """A connection, and whoever asks over it; see `answer`."""

    sock: socket.socket
    user: int
    """User ID, as the kernel attests it."""
    deadline: float
    request: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    """What is still to be sent of the answer."""
    waits: bool = False
    """Whether its request has been read, and not been answered yet."""
    gone: bool = False
    """Whether the connection is closed: nobody hears an answer any more."""

    def answer(self, content: Answer) -> None:
        """Give the answer, now or later than the request; the first one counts. Does nothing for one that is gone."""
        if self.waits:
            self.waits = False
            self.unsent = orjson.dumps(content) + b"\n"
            self.deadline = time.monotonic() + _CLIENT_TIMEOUT


Handler = Callable[[dict[str, Any], Caller], None]
"""Gets a request, and whom to answer, now or later."""


class NoDaemonError(Exception):
    """No daemon can be reached there; the message says why."""


class ControlSocket:
    """Listens in `folder`; the supervisor's loop waits for `sources` and calls `tend`. Raises OSError."""

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._folder, self._handler = folder, handler
        self._callers: list[Caller] = []  # the oldest first
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (folder / NAME).unlink(missing_ok=True)
        with _short_path(folder) as path:
            self._sock.bind(path)
        (folder / NAME).chmod(_MODE)
        self._sock.listen(_BACKLOG)
        self._sock.setblocking(False)

    def sources(self) -> list[tuple[int, int]]:
        """Descriptors to wait for, and the events (poll(2)): none for one that waits, which can only hang up."""
        return [(self._sock.fileno(), select.POLLIN)] + [
            (caller.sock.fileno(), 0 if caller.waits else select.POLLOUT if caller.unsent else select.POLLIN)
            for caller in self._callers
        ]

    def tend(self, now: float) -> None:
        """Accept, read, answer, cut off. Never waits."""
        for caller in self._hung_up():
            self._drop(caller)
        for caller in list(self._callers):
            self._serve(caller)
            if not caller.gone and not caller.waits and now > caller.deadline:
                self._drop(caller)
        with contextlib.suppress(OSError):  # nobody there any more, or no descriptor for them
            for _ in range(_ACCEPTED_PER_TURN):
                self._accept(now)

    def close(self) -> None:
        """Close everything in this process."""
        self._sock.close()
        for caller in self._callers:
            caller.sock.close()

    def remove(self) -> None:
        """Close, and take the socket away: the daemon ends."""
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
            dropped.answer({"ok": False, "error": f"more than {_MAX_WAITING} commands wait for their answer"})
            self._serve(dropped)

    def _hung_up(self) -> list[Caller]:
        """Those that wait for an answer no longer."""
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
        caller.gone, caller.waits = True, False
        caller.sock.close()
        self._callers.remove(caller)


def _dispensable(callers: list[Caller]) -> Caller:
    """The oldest one of the user who has most."""
    ((user, _),) = Counter(caller.user for caller in callers).most_common(1)
    return next(caller for caller in callers if caller.user == user)


def ask(folder: Path, request: dict[str, Any], *, timeout: float) -> Answer:
    """Ask the daemon whose runtime folder this is; `timeout` in seconds for the whole. Raises `NoDaemonError`."""
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
                    raise NoDaemonError(f"the daemon at {folder / NAME} broke off without an answer")
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
    """Connect, and wait for a place in the backlog: one that is full is an error to a socket with a timeout."""
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
    """The socket's path by way of a descriptor of its folder: sun_path has 108 bytes, paths may have more."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
