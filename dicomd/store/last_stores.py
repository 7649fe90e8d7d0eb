"""Remembers across restarts when each peer last stored: an empty file for each peer, modified at that time.

The record is only a convenience: it is never synced, and if it can't be written, only the times after the next restart
are missing. File names are the names of peers in the configuration, never anything that a peer sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dicomd.store.folders import OWN_FOLDER

_SUFFIX = ".peer"


class LastStores:
    """The record of the store at ``root``; times are seconds since the epoch."""

    def __init__(self, root: Path) -> None:
        self._folder = root / OWN_FOLDER / "peers"
        self._recorded: dict[str, float] = {}

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """Return when each of the named peers last stored, as far as that is known."""
        found = {}
        for name in names:
            try:
                found[name] = self._path(name).stat().st_mtime
            except OSError:
                continue
        return found

    def record(self, last_stores: dict[str, float]) -> None:
        """Write the times that have changed since the last call, all that can be. Raises the first OSError."""
        failure: OSError | None = None
        for name, seconds in last_stores.items():
            if self._recorded.get(name, 0.0) < seconds:
                try:
                    self._touch(self._path(name), seconds)
                except OSError as error:
                    failure = failure or error
                else:
                    self._recorded[name] = seconds
        if failure is not None:
            raise failure

    def _touch(self, path: Path, seconds: float) -> None:
        try:
            if path.stat().st_mtime >= seconds:  # another worker has recorded a later store
                return
        except FileNotFoundError:
            self._folder.mkdir(mode=0o750, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        os.utime(path, (seconds, seconds))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"
