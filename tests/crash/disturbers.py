"""Other users of a store, who work in it at the same time: movers, a renamer, and a pruner of empty folders.

One of the movers is an archivist who takes each study as soon as it contains an instance. The archivist and the pruner
are separate programs that work as fast as they can; the archivist rests for two seconds out of three.

Invariant: none of them deletes an instance, and everything that is moved away goes to an archive on the same file
system, in which every file and folder has a recorded time by which it was there.
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

_PAUSE = 0.02  # seconds at most between two actions of the mover or the renamer
_PRUNER = """
import os, sys
parent, root = int(sys.argv[1]), sys.argv[2]
def prune(folder):
    try:
        os.rmdir(folder)
    except OSError:
        try:
            for name in os.listdir(folder):
                if not name.endswith(".dcm"):
                    prune(f"{folder}/{name}")
            os.rmdir(folder)
        except OSError:
            pass
while os.getppid() == parent:
    for name in os.listdir(root):
        if name != ".dicomd":
            prune(f"{root}/{name}")
"""
_ARCHIVIST = """
import itertools, os, sys, time
parent, root, archive = int(sys.argv[1]), sys.argv[2], sys.argv[3]
numbers = itertools.count()
while os.getppid() == parent:
    if int(time.monotonic()) % 3:  # at rest, so that there is something to be overwritten
        time.sleep(0.01)
        continue
    for study in os.listdir(root):
        aside = f"{archive}/{next(numbers)}"
        if study != ".dicomd":
            try:
                if any(name.endswith(".dcm") for _, _, names in os.walk(f"{root}/{study}") for name in names):
                    os.rename(f"{root}/{study}", aside)
                    os.rename(aside, f"{archive}/{time.monotonic()!r}")
            except OSError:
                pass
"""


class Disturbers:
    """A context manager within which they work. `moved` is for `verdict.find`; `counts` are the actions done."""

    def __init__(self, root: Path, archive: Path, seed: int) -> None:
        self.moved: dict[Path, float] = {}
        self.counts: Counter[str] = Counter()
        self._root, self._archive = root, archive
        self._taken = archive / "taken"  # by the archivist, each study under the time by which it was there
        self._taken.mkdir(parents=True)
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(act, random.Random(f"{seed} {act.__name__}")), name=act.__name__)
            for act in (self._move, self._rename)
        ]

    def __enter__(self) -> Self:
        where = str(os.getpid()), str(self._root), str(self._taken)
        self._programs = [
            subprocess.Popen([sys.executable, "-c", program, *where], stdin=subprocess.DEVNULL)
            for program in (_PRUNER, _ARCHIVIST)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        alive = [program.poll() is None for program in self._programs]
        for program in self._programs:
            program.kill()
            program.wait()
        for study in self._taken.iterdir():
            self.counts["taken_at_once"] += 1
            if "." in study.name:  # otherwise the archivist was killed between its two renames
                self.moved[study] = float(study.name)
        if self._failures:
            raise self._failures[0]
        assert all(alive), "a program ended unexpectedly"

    def _work(self, act: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            while not self._over.wait(chance.uniform(0, _PAUSE)):
                act(chance)
        except BaseException as failure:
            self._failures.append(failure)
            raise

    def _move(self, chance: random.Random) -> None:
        """`mv` a study, a series or an instance into a new folder; or move the files of a study one by one into one."""
        kind = chance.choice(("study", "study", "series", "instance", "merge"))
        folder = self._archive / f"{next(self._numbers)}"
        with contextlib.suppress(FileNotFoundError, IndexError):  # another one was quicker, or there is nothing to move
            path = self._choose(chance, {"study": 1, "merge": 1, "series": 2, "instance": 3}[kind])
            if kind == "merge":
                self._merge(path, folder)
            else:
                folder.mkdir()
                path.rename(folder / path.name)
                self.moved[folder] = time.monotonic()
            self.counts[f"moved_by_{kind}"] += 1

    def _merge(self, study: Path, aside: Path) -> None:
        """`mv -n` each file; if both names are links to the same file, keep the one in the archive.

        In that case `mv` itself checks and then unlinks, and would delete a file published under the name in between.
        Therefore each file is moved aside first.
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
        """Rename a study or a series, and back a moment later unless it has been recreated meanwhile."""
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
