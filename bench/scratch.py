"""The folder that everything of a run is written in, and why nothing of it is deleted before the end.

Rule: between turns files are emptied, not deleted. ext4 does not give an inode out again for up to five minutes after
its file was deleted, and steps over such inodes one by one at each file it creates: with some thousand files deleted
before it, a receiver of small objects gets less than half as fast, whichever receiver comes next.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Scratch:
    """A private folder that hands out new ones; `remove` deletes it with all that is in it."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="dicomd-bench-", dir=parent))
        self._numbers = itertools.count(1)
        # Spreads the folders in it over the disk's block groups, away from what an earlier run has deleted (chattr(1),
        # T). Other file systems know no such thing, and need it no more.
        with contextlib.suppress(OSError):
            subprocess.run(["chattr", "+T", str(self.path)], capture_output=True, check=False, timeout=10)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A new folder; at the end of the `with` block its files are emptied, which gives their space back."""
        path = self.path / f"{next(self._numbers):04d}-{name}"
        path.mkdir()
        try:
            yield path
        finally:
            empty(path)

    def remove(self) -> None:
        """Deletes everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def empty(folder: Path) -> None:
    """Makes every regular file below the folder 0 bytes long."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
