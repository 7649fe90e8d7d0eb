"""Sends log lines as entries to systemd's journal, in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

Invariant: a journal that doesn't read delays a process by at most `ROOM_TIMEOUT` seconds, once; then entries are lost,
but reception goes on. That rules out systemd-python: its ``sendv`` waits forever for a full journal and meanwhile holds
the interpreter's lock, so that a single line would stop every Association of the process. An entry is one datagram:
`telemetry.render` makes none longer than 16 KiB, so the protocol's alternative, a sealed file, isn't needed.
"""

import os
import socket
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dicomd.telemetry.writer import ROOM_TIMEOUT

SOCKET: Final = Path("/run/systemd/journal/socket")
_BUFFER: Final = 8 * 1024 * 1024  # bytes, for a burst; the kernel may grant less
_PAUSE: Final = 0.005  # seconds between two tries


def is_there() -> bool:
    """Whether there is a journal on this machine that accepts entries."""
    try:
        return stat.S_ISSOCK(SOCKET.stat().st_mode)
    except OSError:
        return False


def is_stream(fd: int) -> bool:
    """Whether the descriptor is the one that systemd connected to the journal, by $JOURNAL_STREAM (systemd.exec(5))."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalWriter:
    """Sends fields (``KEY=value``), one datagram per entry. Thread-safe.

    ``notice`` makes the entry that says how many were lost; ``on_lost`` is called for each lost entry.
    """

    def __init__(self, *, notice: Callable[[int], Sequence[str]], on_lost: Callable[[], None]) -> None:
        self._notice, self._on_lost = notice, on_lost
        self._lost = 0
        self._full = False  # the journal was full after a wait, so the next entry doesn't wait again
        self._address = str(SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def msg(self, *fields: str) -> None:
        """Send one entry, or lose it if it can't be sent in time. Raises nothing."""
        try:
            if self._lost:
                self._send(encode(self._notice(self._lost)))
                self._lost = 0
            self._send(encode(fields))
        except OSError:  # full (EAGAIN), no journal (ENOENT, ECONNREFUSED), closed (EBADF)
            self._lost += 1
            self._on_lost()

    debug = info = warning = error = critical = msg

    def close(self) -> None:
        """Close the socket; later entries are lost and counted."""
        self._socket.close()

    def _send(self, entry: bytes) -> None:
        gives_up = 0.0
        while True:
            try:
                # By path, not connected: a restarted journal listens on another socket under the same name.
                self._socket.sendto(entry, self._address)
            except BlockingIOError:
                now = time.monotonic()
                gives_up = gives_up or now + ROOM_TIMEOUT
                if self._full or now >= gives_up:
                    self._full = True
                    raise
                time.sleep(_PAUSE)
            else:
                self._full = False
                return


def encode(fields: Sequence[str]) -> bytes:
    """The datagram: one line per field; a value with a newline in it, as in a traceback, follows its length."""
    text = "\n".join(fields)
    if text.count("\n") == len(fields) - 1:
        return text.encode(errors="backslashreplace") + b"\n"
    parts = []
    for field in fields:
        name, _, value = field.encode(errors="backslashreplace").partition(b"=")
        parts += [name, b"=", value] if b"\n" not in value else [name, b"\n", len(value).to_bytes(8, "little"), value]
        parts.append(b"\n")
    return b"".join(parts)
