"""Locks that report when a thread begins to wait for one, so that tests need no look inside to know that it waits."""

from __future__ import annotations

import threading
from types import ModuleType, SimpleNamespace

import pytest

LONG = 10.0
"""Seconds for what should happen at once."""


class Waits:
    """The waits with a limited time for the locks that a module makes from now on; others aren't counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self._begun = threading.Semaphore(0)
        replaced = SimpleNamespace(Lock=lambda: _ObservedLock(self._begun), Thread=threading.Thread)
        monkeypatch.setattr(module, "threading", replaced)

    def next(self) -> None:
        """Wait until the next wait begins; each is returned once. Raises AssertionError."""
        assert self._begun.acquire(timeout=LONG), "no thread waits"

    def none(self) -> bool:
        """Whether no other wait has begun."""
        return not self._begun.acquire(blocking=False)


class _ObservedLock:
    def __init__(self, begun: threading.Semaphore) -> None:
        self._lock, self._begun = threading.Lock(), begun

    def acquire(self, *, timeout: float = -1) -> bool:
        if timeout >= 0:
            self._begun.release()
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
