"""Signals as something to wait for beside sockets and pipes.

The rule it keeps: a handler only takes note. It runs between any two bytecodes, with any lock held, so nothing else is
safe in it; and a descriptor that becomes readable leaves no gap between looking for a signal and waiting for one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable


class SignalPipe:
    """Collects the signals of `numbers` from its making on, and is readable (`fileno`) when there are some."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._noted: list[int] = []
        self._numbers = tuple(numbers)
        for number in self._numbers:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """The signals since the last call, in their order."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        noted, self._noted = self._noted, []
        return [signal.Signals(number) for number in noted]

    def ignore(self) -> None:
        """Ignore them from now on: at its end the interpreter would take the handlers away, and one more would kill."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def close(self) -> None:
        """Give the descriptors back: in a fork, whose signals would otherwise wake its parent."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, _frame: object) -> None:
        self._noted.append(number)
