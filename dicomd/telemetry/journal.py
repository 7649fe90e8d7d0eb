"""Log lines as entries of systemd's journal, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).

The rule: a journal that stands still costs at most `PATIENCE` seconds once, and then the entries, never a reception.
Therefore not systemd-python: its ``sendv`` waits for a full journal without end, and holds the interpreter's lock
meanwhile, so that one such line stops every Association of the process. An entry is one datagram: `telemetry.render`
makes none longer than 16 KiB, so the protocol's other way, a sealed file, isn't needed.
"""

import os
import socket
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dicomd.telemetry.writer import PATIENCE

SOCKET: Final = Path("/run/systemd/journal/socket")
_BUFFER: Final = 8 * 1024 * 1024  # bytes, of which the kernel gives what it may: room for a burst
_PAUSE: Final = 0.005  # seconds between two tries


def is_there() -> bool:
    """Whether a journal takes entries on this machine."""
    try:
        return stat.S_ISSOCK(SOCKET.stat().st_mode)
    except OSError:
        return False


def is_stream(fd: int) -> bool:
    """Whether the descriptor is the one systemd connected to the journal, by $JOURNAL_STREAM (systemd.exec(5))."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalWriter:
    """Sends fields (``KEY=value``) as one datagram an entry; usable by many threads.

    ``notice`` makes the entry that says how many were lost; ``on_lost`` is told of each, as it is lost.
    """

    def __init__(self, *, notice: Callable[[int], Sequence[str]], on_lost: Callable[[], None]) -> None:
        self._notice, self._on_lost = notice, on_lost
        self._lost = 0
        self._full = False  # it was full, and nobody waits for it a second time
        self._address = str(SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def msg(self, *fields: str) -> None:
        """One entry; lost if it can't be sent in time. Raises nothing."""
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
        """Give the descriptor back; later entries are lost and counted."""
        self._socket.close()

    def _send(self, entry: bytes) -> None:
        gives_up = 0.0
        while True:
            try:
                # By path, not connected: the journal may be restarted and listen on another socket of that name.
                self._socket.sendto(entry, self._address)
            except BlockingIOError:
                now = time.monotonic()
                gives_up = gives_up or now + PATIENCE
                if self._full or now >= gives_up:
                    self._full = True
                    raise
                time.sleep(_PAUSE)
            else:
                self._full = False
                return


def encode(fields: Sequence[str]) -> bytes:
    """The datagram: a line a field; a value with a newline in it, such as a traceback, with its length before it."""
    text = "\n".join(fields)
    if text.count("\n") == len(fields) - 1:
        return text.encode(errors="backslashreplace") + b"\n"
    parts = []
    for field in fields:
        name, _, value = field.encode(errors="backslashreplace").partition(b"=")
        parts += [name, b"=", value] if b"\n" not in value else [name, b"\n", len(value).to_bytes(8, "little"), value]
        parts.append(b"\n")
    return b"".join(parts)
