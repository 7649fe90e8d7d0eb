"""Reads and validates a new configuration in a process of its own, because accessing a path may hang.

If a disk or an NFS server doesn't answer, the process that accesses it hangs, and not even SIGKILL ends that wait. So
the supervisor never accesses a path that the configuration names: a child does, and sends the result through a pipe.
A child that takes too long is killed and no longer waited for; it exits when its file system answers.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import time
from pathlib import Path
from typing import Final

from dicomd.config import Config, Problem
from dicomd.ipc.channel import ChildEnd
from dicomd.supervisor import reread_config
from dicomd.supervisor.children import Child, Children
from dicomd.supervisor.reread_config import Reading
from dicomd.supervisor.sockets import Sockets

_ANSWER_TIMEOUT: Final = 20.0
"""Seconds for checking all files and folders; a slow disk or a distant server needs a few."""
_CHUNK: Final = 65536
_END_OF_PATHS: Final = b"\0"
"""Separates the paths, each sent on a line of its own before it is accessed, from the result."""


class Validation:
    """A validation that is under way. The supervisor's loop polls `fileno` and calls `tend`. Raises OSError."""

    def __init__(self, children: Children, sockets: Sockets, path: Path, running: Config) -> None:
        self._children = children
        self._path = path
        self._read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read, False)
        self._received = bytearray()
        self._deadline = time.monotonic() + _ANSWER_TIMEOUT

        def run(_supervisor: ChildEnd) -> None:
            os.close(self._read)
            _validate(path, running, write)

        gc.collect()
        try:
            self.child: Child = children.fork(run, close=[sockets.close])
        except OSError:
            os.close(self._read)
            raise
        finally:
            os.close(write)
        children.private.append(self._close)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._read

    def tend(self, now: float) -> Reading | None:
        """Return the result, or None while it isn't known. Never waits."""
        try:
            while data := os.read(self._read, _CHUNK):
                self._received += data
        except BlockingIOError:
            if now < self._deadline:
                return None
            hanging = self._no_answer()
            self.abandon()
            return hanging
        self._give_back()
        return self._result()

    def abandon(self) -> None:
        """End the validation, as its result is no longer needed."""
        if self.child.pid in self._children.living:
            self.child.kill()
        self._give_back()

    def _result(self) -> Reading:
        _, divider, result = bytes(self._received).partition(_END_OF_PATHS)
        try:
            found = pickle.loads(result) if divider else None  # noqa: S301 - from a fork of this very process
        except (EOFError, pickle.UnpicklingError):  # it was killed while it was writing
            found = None
        if isinstance(found, Reading):
            return found
        return Reading(None, errors=(f"{self._path}: the process that validated it has died",))

    def _no_answer(self) -> Reading:
        key, _, path = self._received.decode(errors="replace").rstrip("\n").rpartition("\n")[2].partition("\t")
        what = f"{path} gives no answer within {_ANSWER_TIMEOUT:g} s"
        problem = Problem(str(self._path), key, what, "a path whose file system answers: check its disk or server")
        return Reading(None, errors=(str(problem),))

    def _give_back(self) -> None:
        self._children.private.remove(self._close)
        self._close()

    def _close(self) -> None:
        os.close(self._read)


def _validate(path: Path, running: Config, out: int) -> None:
    """In the child: validate everything, writing each path before it is accessed and then the result."""

    def looking(key: str, looked_at: Path) -> None:
        _write(out, f"{key}\t{_line(looked_at)}\n".encode())

    with contextlib.suppress(BrokenPipeError):  # the supervisor has ended
        reading = reread_config.reread(path, running, looking)
        _write(out, _END_OF_PATHS + pickle.dumps(reading))


def _line(path: Path) -> str:
    """Make a path fit for a line of its own, without control characters and bytes that aren't text."""
    return "".join(char if char.isprintable() else "?" for char in str(path))


def _write(out: int, data: bytes) -> None:
    while data:
        data = data[os.write(out, data) :]
