"""Turns signals into a descriptor that can be polled together with sockets and pipes.

Invariant: a handler only records its signal. It may run between any two bytecodes, while any lock is held, so nothing
else would be safe in it. Polling a descriptor also avoids the race between checking for a signal and waiting for one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable


class SignalPipe:
    """Collects the signals in `numbers` as soon as it is created. `fileno` is readable while there are any."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._noted: list[int] = []
        self._numbers = tuple(numbers)
        for number in self._numbers:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """Return the signals received since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        noted, self._noted = self._noted, []
        return [signal.Signals(number) for number in noted]

    def ignore(self) -> None:
        """Ignore the signals from now on: the interpreter removes handlers at exit, and a late signal would kill it."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def close(self) -> None:
        """Close the descriptors. Must be called in a forked child, whose signals would otherwise wake its parent."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, _frame: object) -> None:
        self._noted.append(number)
