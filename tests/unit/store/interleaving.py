"""Publications in a world in which others act between any two of their system calls.

A `Publication` runs in a thread of its own, one system call at a time: each call of the store's waits until the test
lets it go on. So a test decides what happens between which calls, and everything is repeatable. A publication can be
killed before any call, and makes none from then on, as a dead process would. Syncs do nothing except fail on demand,
because there is no power loss here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from dicomd.store import temporary
from dicomd.store.errors import StoreError
from dicomd.store.part10 import read_header
from tests.support.overwrites import Sending, lost
from tests.unit.store.instances import INSTANCE, SERIES, STUDY, data_set, identity, own_file_store

STEPS: Final = {
    os: ("open", "link", "rename", "mkdir", "rmdir", "unlink", "stat", "lstat", "fsync", "fdatasync", "close"),
    fcntl: ("flock",),
    time: ("sleep",),
}
"""The calls between which others may act."""


class Killed(BaseException):
    """Raised in a publication's thread to end it like a killed process."""


class Publication:
    """The publication of one sender's instance, held before its next system call."""

    def __init__(self, world: World, pixels: bytes, *, failing_sync: int = 0) -> None:
        """`failing_sync`: which sync of a folder fails, 0 for none."""
        self.pixels = pixels
        self.sending = Sending(INSTANCE, pixels, world.now())
        self.pending = ""  # the call before which it is held
        self.over = self.killed = False
        self.unexpected: BaseException | None = None
        self._world, self._failing_sync = world, failing_sync
        self._store = own_file_store(world.root, duplicates=world.duplicates, checksums=False)
        self._store.start()
        data = memoryview(data_set(pixels=pixels))
        self._writer = self._store.open(identity())
        self._writer.write([data], len(data))
        self.fd = self._writer._fd  # noqa: SLF001 - what the kernel closes when a process is killed; -1 once it is closed
        self._go, self._held = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        world.publications[self._thread] = self
        self.advance()

    def advance(self) -> None:
        """Let it make its next call, and hold it before the following one."""
        self._go.release()
        self._held.acquire()
        if self.over and self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """Simulate SIGKILL: it makes no more calls, and its locks are released."""
        self.killed = True
        while not self.over:
            self.advance()
        for fd in (self.fd, self._store._temporary._lock_fd):  # noqa: SLF001 - closed by the kernel, too
            if fd >= 0:
                os.close(fd)

    def before(self, call: str) -> None:
        """Called in its thread before each call: wait until the test lets it go on."""
        if self.killed:
            raise Killed
        self.pending = call
        self._held.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def sync(self) -> None:
        self._failing_sync -= 1
        if self._failing_sync == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._publish()
        except Killed:
            pass
        except BaseException as error:
            self.unexpected = error
        finally:
            self.over = True
            self._held.release()

    def _publish(self) -> None:
        with suppress(StoreError):
            self._writer.commit()
            self.sending.acknowledged = True
        self.sending.ended = self._world.now()
        self._writer.release()
        self._store.close()


class World:
    """A store, an archive beside it, and other users' actions on both, which are the methods in `DISTURBANCES`."""

    def __init__(self, folder: Path, duplicates: str) -> None:
        self.root, self.archive, self.backup = folder / "store", folder / "archive", folder / "backup"
        self.duplicates = duplicates
        self.publications: dict[threading.Thread, Publication] = {}
        self.archive.mkdir(parents=True)
        self._file_store = own_file_store(self.root, checksums=False)
        self._file_store.start()
        self._time = 0
        self._moved: dict[Path, float] = {}
        self._deleted: dict[tuple[str, bytes], float] = {}
        self.study, self.series = self.root / STUDY, self.root / STUDY / SERIES

    def now(self) -> float:
        self._time += 1
        return self._time

    def run(self, *publications: Publication) -> None:
        """Let the publications run to their ends, in turns."""
        while unfinished := [each for each in publications if not each.over]:
            for each in unfinished:
                each.advance()

    def move_study(self) -> None:
        self._move(self.study)

    def move_series(self) -> None:
        self._move(self.series)

    def move_file(self) -> None:
        self._move(self.series / f"{INSTANCE}.dcm")

    def merge_study(self) -> None:
        """`mv -n` each file into one folder; of two names of the same file, one is removed."""
        for path in sorted(self.study.rglob("*.dcm")):
            target = self.archive / "merged" / path.name
            target.parent.mkdir(exist_ok=True)
            if not target.exists() or target.samefile(path):
                path.rename(target)
                self._moved.setdefault(target, self.now())
                path.unlink(missing_ok=True)

    def move_back(self) -> None:
        """Move the study that was moved first back to its place, if nothing is there."""
        for path in sorted(self.archive.glob(f"*/{STUDY}")):
            with suppress(OSError):
                path.rename(self.study)
                return

    def copy_by_links(self) -> None:
        """Copy with hard links (`cp -al`)."""
        for path in self.study.rglob("*.dcm"):
            self.backup.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (self.backup / path.name).hardlink_to(path)

    def restore(self) -> None:
        """Restore copied files whose places are empty."""
        for path in self.backup.glob("*.dcm"):
            self.series.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                (self.series / path.name).hardlink_to(path)

    def delete_study(self) -> None:
        now = self.now()
        self._deleted |= {(INSTANCE, pixels_of(path)): now for path in self.study.rglob("*.dcm")}
        shutil.rmtree(self.study, ignore_errors=True)

    def prune(self) -> None:
        for folder in (self.series, self.study):
            with suppress(OSError):
                folder.rmdir()

    def make_folders(self) -> None:
        self.series.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        temporary.sweep(self.root / ".dicomd" / "tmp", self.root / ".dicomd" / "locks")

    def wrong(self) -> list[str]:
        """Return everything that is wrong with the store, after all have finished."""
        publications = self.publications.values()
        known = {each.pixels for each in publications}
        found = [f"unexpected: {each.unexpected!r}" for each in publications if each.unexpected is not None]
        present = dict(self._deleted)  # deleted deliberately, so these count as present
        for folder in (self.root, self.archive):
            for path in folder.rglob("*.dcm"):
                if ".dicomd" in path.parts:
                    continue
                pixels = pixels_of(path)
                if pixels not in known:
                    found.append(f"{path} is not complete")
                moved = next((self._moved[each] for each in (path, *path.parents) if each in self._moved), float("inf"))
                present[INSTANCE, pixels] = max(present.get((INSTANCE, pixels), 0), moved)
        sendings = [each.sending for each in publications]
        missing = lost(sendings, present, overwriting=self.duplicates == "replace")
        found += [f"acknowledged and gone: {pixels!r}" for _, pixels in missing]
        self.sweep()
        found += [f"left: {path}" for path in (self.root / ".dicomd" / "tmp").iterdir()]
        self._file_store.close()
        return found

    def _move(self, path: Path) -> None:
        folder = self.archive / str(self._time)
        folder.mkdir(exist_ok=True)
        with suppress(OSError):
            path.rename(folder / path.name)
            self._moved[folder / path.name] = self.now()


DISTURBANCES: Final[list[Callable[[World], None]]] = [
    World.move_study,
    World.move_series,
    World.move_file,
    World.merge_study,
    World.move_back,
    World.copy_by_links,
    World.restore,
    World.delete_study,
    World.prune,
    World.make_folders,
    World.sweep,
]


def pixels_of(path: Path) -> bytes:
    """The pixels in a complete Part 10 file of these tests; b"" for anything else."""
    with path.open("rb") as file:
        header = read_header(file.fileno())
        if header is None:
            return b""
        file.seek(header.data_set_offset)
        content = file.read()
    pixels = content[-4:]
    return pixels if content == data_set(pixels=pixels) else b""


@contextmanager
def stepped(worlds: Callable[[], World | None]) -> Iterator[None]:
    """Make the calls in `STEPS` wait for the test if they come from a publication in the current world."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in STEPS.items():
            for name in names:
                patch.setattr(module, name, _stepped(name, getattr(module, name), worlds))
        yield


def _stepped(name: str, call: Callable[..., Any], worlds: Callable[[], World | None]) -> Callable[..., Any]:
    def stepping(*arguments: Any, **options: Any) -> Any:
        world = worlds()
        publication = None if world is None else world.publications.get(threading.current_thread())
        if publication is not None and name != "close":
            publication.before(name)
            if name == "fsync":
                publication.sync()
        if publication is not None and name == "close" and arguments[0] == publication.fd:
            publication.fd = -1
        if name in ("fsync", "fdatasync") or (name == "sleep" and publication is not None):
            return None
        return call(*arguments, **options)

    return stepping
