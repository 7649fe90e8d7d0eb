"""Others at work in a store: a mover, a renamer, and a pruner of empty folders as fast as it can.

The rule it keeps: nobody here deletes an instance, and everything that is moved away comes into an archive on the same
file system, whose every file and folder has a time by which it was there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_PAUSE = 0.02  # seconds between two actions of the mover or the renamer, at most
_PRUNER = """
import os, sys
root = sys.argv[1]
while os.getppid() == int(sys.argv[2]):
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != root and "/.dicomd" not in folder:
            try:
                os.rmdir(folder)
            except OSError:
                pass
"""


class Disturbers:
    """A context manager: they work while it lasts. `moved` is for `verdict.find`, `counts` says what was done."""

    def __init__(self, root: Path, archive: Path, seed: int) -> None:
        self.moved: dict[Path, float] = {}
        self.counts: Counter[str] = Counter()
        self._root, self._archive = root, archive
        self._archive.mkdir(exist_ok=True)
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(act, random.Random(f"{seed} {act.__name__}")), name=act.__name__)
            for act in (self._move, self._rename)
        ]

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", _PRUNER, str(self._root), str(os.getpid())]
        self._pruner = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        alive = self._pruner.poll() is None
        self._pruner.kill()
        self._pruner.wait()
        if self._failures:
            raise self._failures[0]
        assert alive, "the pruner ended by itself"

    def _work(self, act: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            while not self._over.wait(chance.uniform(0, _PAUSE)):
                act(chance)
        except BaseException as failure:
            self._failures.append(failure)
            raise

    def _move(self, chance: random.Random) -> None:
        """`mv` of a study, a series or an instance to a folder of its own; or a study's files, one by one, into one."""
        kind = chance.choice(("study", "study", "series", "instance", "merge"))
        folder = self._archive / f"{next(self._numbers)}"
        with contextlib.suppress(FileNotFoundError, IndexError):  # somebody was quicker, or there is nothing
            path = self._choose(chance, {"study": 1, "merge": 1, "series": 2, "instance": 3}[kind])
            if kind == "merge":
                self._merge(path, folder)
            else:
                folder.mkdir()
                path.rename(folder / path.name)
                self.moved[folder] = time.monotonic()
            self.counts[f"moved_by_{kind}"] += 1

    def _merge(self, study: Path, aside: Path) -> None:
        """`mv -n` of each file: where both are names of one file, that which is there already is left.

        What `mv` does then, a look and an unlink, would delete what comes to the name in between: it goes aside first.
        """
        for path in study.glob("*/*.dcm"):
            target = self._archive / "merged" / study.name / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if not target.exists():
                    path.rename(target)
                    self.moved[target] = time.monotonic()
                elif target.samefile(path):
                    path.rename(aside)
                    if target.samefile(aside):
                        aside.unlink()
                        self.counts["second_names_removed"] += 1
                    else:
                        aside.rename(target.with_stem(f"{aside.name}-{target.stem}"))

    def _rename(self, chance: random.Random) -> None:
        """Rename a study or a series and, a moment later, back, unless it has been made anew meanwhile."""
        with contextlib.suppress(FileNotFoundError, IndexError):
            path = self._choose(chance, chance.choice((1, 1, 2)))
            away = path.with_name(f"{path.name}-away")
            with contextlib.suppress(OSError):
                path.rename(away)
                self._over.wait(chance.uniform(0, _PAUSE))
                away.rename(path)
                self.counts["renamed_to_and_fro"] += 1

    def _choose(self, chance: random.Random, depth: int) -> Path:
        path = self._root
        for _ in range(depth):
            path = chance.choice(sorted(each for each in path.iterdir() if each.name != ".dicomd"))
        return path
