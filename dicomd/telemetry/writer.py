"""Where finished log lines go: a file descriptor, or a stream without one; the journal has `telemetry.journal`.

The rule: logging never stops a reception. A line is one write of the whole line, nothing is buffered (so a fork copies
nothing and a crash loses nothing), and no error comes out of here. A reader of the log that has gone away (EPIPE), a
full disk or any other error costs the line; a reader that has merely stopped costs at most `PATIENCE` seconds once, and
then the lines, until there is room again. What was lost is counted, and the next line that gets through says how many.
"""

import os
import select
import socket
import stat
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol, TextIO

PATIENCE: Final = 0.1  # seconds for a full pipe: enough for a slow reader, too short for a sender to notice

_after_fork: weakref.WeakSet["DescriptorWriter"] = weakref.WeakSet()


class LineWriter(Protocol):
    """The last stage of the log: what structlog calls a logger, with one method a level."""

    def close(self) -> None:
        """Give the descriptor back; later lines are lost and counted."""


class DescriptorWriter:
    """Writes lines (bytes, ending in a newline) to a file descriptor of its own, a duplicate of the one it is given.

    ``notice`` makes the line that says how many were lost; ``on_lost`` is told of each, as it is lost.
    """

    def __init__(self, fd: int, *, notice: Callable[[int], bytes], on_lost: Callable[[], None]) -> None:
        self._notice = notice
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._lost = 0
        self._torn = False  # the last line was cut off: the next begins on a line of its own
        self._full = False  # it was full, and nobody waits for it a second time
        self._socket: socket.socket | None = None
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd, self._may_block = self._socket.fileno(), False
        else:
            self._fd, self._may_block = _own_descriptor(fd, mode)
        _after_fork.add(self)

    def msg(self, line: bytes) -> None:
        """One line, whole; lost if it can't be written in time. Raises nothing."""
        with self._lock:
            if self._lost or self._torn:
                line = self._preface() + line
            sent = 0
            try:
                while (sent := sent + self._write(line[sent:] if sent else line)) < len(line):
                    self._await_room()
                self._lost, self._torn, self._full = 0, False, False
            except OSError:  # gone (EPIPE), closed (EBADF), full (EAGAIN, ENOSPC): see the module's rule
                self._torn = self._torn or sent > 0
                self._lost += 1
                self._on_lost()

    debug = info = warning = error = critical = msg

    def close(self) -> None:
        """Give the descriptor back; later lines are lost and counted."""
        with self._lock:
            fd, self._fd, self._may_block = self._fd, -1, False
            if self._socket is not None:
                self._socket.close()
            elif fd >= 0:
                os.close(fd)

    def _write(self, line: bytes) -> int:
        """As much of the line as there is room for, in bytes; 0 where there is none."""
        try:
            if self._socket is not None:  # O_NONBLOCK would be set for everyone who shares the socket: per call instead
                return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._may_block:  # a pipe that polls as writable takes PIPE_BUF bytes at once
                return os.write(self._fd, line[: select.PIPE_BUF]) if self._has_room(0) else 0
            return os.write(self._fd, line)
        except BlockingIOError:
            return 0

    def _await_room(self) -> None:
        """Raises BlockingIOError when there is none within `PATIENCE`, or at once where there was none before."""
        if not self._has_room(0 if self._full else PATIENCE):
            self._full = True
            raise BlockingIOError

    def _has_room(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(seconds * 1000))

    def _preface(self) -> bytes:
        newline = b"\n" if self._torn else b""
        return newline + (self._notice(self._lost) if self._lost else b"")


class StreamWriter:
    """Writes lines to a text stream that has no descriptor, such as a captured one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: bytes) -> None:
        """One line, flushed."""
        with self._lock:
            try:
                self._stream.write(line.decode())
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: closed
                return

    debug = info = warning = error = critical = msg

    def close(self) -> None:
        """The stream is its owner's to close."""


def _own_descriptor(fd: int, mode: int) -> tuple[int, bool]:
    """A duplicate, of a pipe or terminal a non-blocking one, and whether a write to it may block for ever.

    O_NONBLOCK belongs to the open file, which dicomd shares with the shell that started it and whoever else writes
    there; opened anew through /proc it is dicomd's alone. Not allowed where the pipe is another user's, as in many
    containers.
    """
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), False
        except OSError:
            return os.dup(fd), True
    return os.dup(fd), False


def _renew_locks() -> None:
    """In the child of a fork: a lock that another thread held would stay held for ever."""
    for writer in list(_after_fork):
        writer._lock = threading.Lock()  # noqa: SLF001 - its own module's


os.register_at_fork(after_in_child=_renew_locks)
