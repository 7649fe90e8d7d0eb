"""The folder that everything of a run is written in, and why nothing of it is deleted before the end.

Rule: between turns files are emptied, not deleted. Without a journal ext4 does not give an inode out again for up to
five minutes after its file was deleted, and steps over such inodes one by one at each file it creates: with some
thousand files deleted before it, a receiver of small objects gets less than half as fast, whichever comes next.
What others have deleted is avoided: folders lie apart, and a new one is where files are created quickly.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_CANDIDATES = 6
"""Folders that are made for each one that is used."""
_PROBES = 16
"""Files that are created in each of them: inodes are looked for from the lowest on, so the first are as slow as any."""


class Scratch:
    """A private folder that hands out new ones; `remove` deletes it with all that is in it."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="dicomd-bench-", dir=parent))
        self._numbers = itertools.count(1)
        # Spreads the folders in it over the disk's block groups (chattr(1), T), so that they don't share what has been
        # deleted in one of them. Other file systems know no such thing, and need it no more.
        with contextlib.suppress(OSError):
            subprocess.run(["chattr", "+T", str(self.path)], capture_output=True, check=False, timeout=10)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A new folder; at the end of the `with` block its files are emptied, which gives their space back."""
        candidates = [self._new(name) for _ in range(_CANDIDATES)]
        path = min(candidates, key=_seconds_to_create)
        try:
            yield path
        finally:
            empty(path)

    def _new(self, name: str) -> Path:
        path = self.path / f"{next(self._numbers):04d}-{name}"
        path.mkdir()
        return path

    def remove(self) -> None:
        """Deletes everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def _seconds_to_create(folder: Path) -> float:
    """How long it takes to create a file here, the median of some that stay."""
    probes = folder / "probes"
    probes.mkdir()
    taken = []
    for number in range(_PROBES):
        began = time.perf_counter()
        (probes / str(number)).touch(exist_ok=False)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def empty(folder: Path) -> None:
    """Makes every regular file below the folder 0 bytes long."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
