"""Writes finished log lines to a file descriptor; for the journal see `telemetry.journal`.

Invariant: logging never stops reception. Each line is written whole and at once; nothing is buffered, so a fork copies
nothing and a crash loses nothing, and no method here raises. If the reader of the log has gone away (EPIPE), the disk
is full or any other error occurs, the line is lost. A reader that has merely stopped delays the process by at most
`ROOM_TIMEOUT` seconds, once; then lines are lost until there is room again. Lost lines are counted, and the next line
that gets through says how many there were.
"""

import os
import select
import socket
import stat
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol

ROOM_TIMEOUT: Final = 0.1  # seconds to wait for room: long enough for a slow reader, too short for a sender to notice

_after_fork: weakref.WeakSet["DescriptorWriter"] = weakref.WeakSet()


class LineWriter(Protocol):
    """The last stage of the log: what structlog calls a logger, with one method per level."""

    def close(self) -> None:
        """Close the descriptor; later lines are lost and counted."""


class DescriptorWriter:
    """Writes lines (bytes, ending in a newline) to a file descriptor of its own, a duplicate of the one it is given.

    ``notice`` makes the line that says how many were lost; ``on_lost`` is called for each lost line.
    """

    def __init__(self, fd: int, *, notice: Callable[[int], bytes], on_lost: Callable[[], None]) -> None:
        self._notice = notice
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._lost = 0
        self._torn = False  # the last line was written only in part, so a newline has to precede the next
        self._full = False  # it was full after a wait, so the next line doesn't wait again
        self._socket: socket.socket | None = None
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd, self._may_block = self._socket.fileno(), False
        else:
            self._fd, self._may_block = _own_descriptor(fd, mode)
        _after_fork.add(self)

    def msg(self, line: bytes) -> None:
        """Write one whole line, or lose it if it can't be written in time. Raises nothing."""
        with self._lock:
            if self._lost or self._torn:
                line = self._preface() + line
            sent = 0
            try:
                while (sent := sent + self._write(line[sent:] if sent else line)) < len(line):
                    self._await_room()
                self._lost, self._torn, self._full = 0, False, False
            except OSError:  # gone (EPIPE), closed (EBADF), full (EAGAIN, ENOSPC): see the module's docstring
                self._torn = self._torn or sent > 0
                self._lost += 1
                self._on_lost()

    debug = info = warning = error = critical = msg

    def close(self) -> None:
        """Close the descriptor; later lines are lost and counted."""
        with self._lock:
            fd, self._fd, self._may_block = self._fd, -1, False
            if self._socket is not None:
                self._socket.close()
            elif fd >= 0:
                os.close(fd)

    def _write(self, line: bytes) -> int:
        """Write as much of the line as there is room for; return the number of bytes, 0 if there is no room."""
        try:
            if self._socket is not None:  # per call, as O_NONBLOCK would affect all who share the socket
                return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._may_block:  # a pipe that polls as writable accepts PIPE_BUF bytes at once
                return os.write(self._fd, line[: select.PIPE_BUF]) if self._has_room(0) else 0
            return os.write(self._fd, line)
        except BlockingIOError:
            return 0

    def _await_room(self) -> None:
        """Wait for room. Raises BlockingIOError after `ROOM_TIMEOUT`, or at once if the last wait failed."""
        if not self._has_room(0 if self._full else ROOM_TIMEOUT):
            self._full = True
            raise BlockingIOError

    def _has_room(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(seconds * 1000))

    def _preface(self) -> bytes:
        newline = b"\n" if self._torn else b""
        return newline + (self._notice(self._lost) if self._lost else b"")


def _own_descriptor(fd: int, mode: int) -> tuple[int, bool]:
    """Duplicate the descriptor, non-blocking for a pipe or terminal; also return whether a write may block forever.

    O_NONBLOCK belongs to the open file, which dicomd shares with the shell that started it and whoever else writes
    there; reopened through /proc, it is dicomd's alone. That isn't permitted if the pipe is another user's, as in many
    containers.
    """
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), False
        except OSError:
            return os.dup(fd), True
    return os.dup(fd), False


def _renew_locks() -> None:
    """Replace the locks in the child of a fork: one that another thread held would stay held forever."""
    for writer in list(_after_fork):
        writer._lock = threading.Lock()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_renew_locks)
