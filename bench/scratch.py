"""The scratch folder that contains everything a run writes, in which nothing is deleted before the end.

Invariant: between turns, files are emptied and not deleted. For up to five minutes after a file was deleted, ext4
without a journal doesn't reuse its inode, and skips such inodes one by one whenever it creates a file: after a few
thousand deletions, the next receiver of small objects is less than half as fast. To avoid what other programs have
deleted, folders are spread over the disk, and the one where files are created fastest is used.
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
"""Folders that are created for each one that is used."""
_PROBES = 16
"""Files that are created in each: ext4 searches inodes from the lowest on, so the first files are as slow as any."""


class Scratch:
    """A private folder that provides new subfolders; `remove` deletes it with all its contents."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="dicomd-bench-", dir=parent))
        self._numbers = itertools.count(1)
        # Spread its subfolders over the disk's block groups (chattr(1), T), so that files deleted in one don't affect
        # all. Other file systems neither have nor need that.
        with contextlib.suppress(OSError):
            subprocess.run(["chattr", "+T", str(self.path)], capture_output=True, check=False, timeout=10)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Provide a new folder; at the end of the `with` block its files are emptied, which frees their space."""
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
        """Delete everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def _seconds_to_create(folder: Path) -> float:
    """Measure how long it takes to create a file: the median of some files, which are kept."""
    probes = folder / "probes"
    probes.mkdir()
    taken = []
    for number in range(_PROBES):
        began = time.perf_counter()
        (probes / str(number)).touch(exist_ok=False)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def empty(folder: Path) -> None:
    """Truncate every regular file below the folder to 0 bytes."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
