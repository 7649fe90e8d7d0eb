"""Temporary files: each process owns its own, and a start removes only those of dead processes."""

import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store.instances import data_set, file_store, files, identity, open_descriptors, path_of, put
from tests.unit.store.processes import Process


def test_a_start_removes_the_files_of_a_killed_process_and_not_those_of_a_living_one(tmp_path: Path) -> None:
    with Process("hold", tmp_path) as process:
        process.wait_until_ready()
        alive = file_store(tmp_path, start=False)
        assert alive.start() == 0
        assert len(files(tmp_path)) == 2
        put(alive, data_set("1.4"), identity("1.4"))
    assert len(files(tmp_path)) == 3
    store = file_store(tmp_path, start=False)
    assert store.start() == 2
    assert [Path(path).name for path in files(tmp_path)] == ["1.4.dcm"]
    assert store.start() == 0


def test_a_child_has_its_own_temporary_files_after_a_fork(tmp_path: Path) -> None:
    with Process("fork", tmp_path) as parent:
        child = parent.wait_until_ready()
        try:
            assert len(list((tmp_path / ".dicomd" / "locks").iterdir())) == 2
            assert file_store(tmp_path, start=False).start() == 0
            parent.kill()
            assert file_store(tmp_path, start=False).start() == 1  # the parent's; the child is still running
            assert len(files(tmp_path)) == 1
        finally:
            os.kill(child, signal.SIGKILL)


def test_files_without_a_lock_are_swept(tmp_path: Path) -> None:
    file_store(tmp_path).close()
    (tmp_path / ".dicomd" / "tmp" / "0123456789ab-1").write_bytes(b"left by a crash")
    (tmp_path / ".dicomd" / "tmp" / "whatever").write_bytes(b"")
    assert file_store(tmp_path, start=False).start() == 2
    assert files(tmp_path) == []


def test_what_cannot_be_swept_stays_and_hinders_neither_the_rest_nor_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_store(tmp_path).close()
    tmp, locks = tmp_path / ".dicomd" / "tmp", tmp_path / ".dicomd" / "locks"
    bad = {"a": "closed", "b": "without locks", "c": "unreadable"}
    for owner in (*bad, "d"):
        (locks / owner).touch()
        (tmp / f"{owner}-1").write_bytes(b"left by a crash")
    (locks / "e").mkdir()
    (tmp / "e-1").touch()
    opened, flock, lstat = os.open, fcntl.flock, Path.lstat

    def fail(number: int) -> None:
        raise OSError(number, os.strerror(number))

    def watched_open(path: Any, *arguments: Any, **options: Any) -> int:
        if path == locks / "a":
            fail(errno.EACCES)
        return opened(path, *arguments, **options)

    def watched_flock(fd: int, operation: int) -> None:
        if path_of(fd) == locks / "b":
            fail(errno.ENOLCK)
        flock(fd, operation)

    def watched_lstat(path: Path) -> os.stat_result:
        if path == tmp / "c-1":
            fail(errno.EIO)
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched_open)
        patch.setattr(fcntl, "flock", watched_flock)
        patch.setattr(Path, "lstat", watched_lstat)
        store = file_store(tmp_path, start=False)
        assert store.start() == 1
        assert store.state.accepting
    assert sorted(path.name for path in tmp.iterdir()) == ["a-1", "b-1", "c-1", "e-1"]
    put(store, data_set())


def test_a_folder_of_temporary_files_that_cannot_be_listed_hinders_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_store(tmp_path).close()

    def unlisted(_path: Any) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", unlisted)
    assert file_store(tmp_path).state.accepting


@pytest.mark.parametrize("ending", ["commit", "discard", "failure"])
def test_no_descriptor_is_left_open(tmp_path: Path, ending: str) -> None:
    store = file_store(tmp_path)
    put(store, data_set("1.1"), identity("1.1"))
    before = open_descriptors()
    for number in range(20):
        uid = f"2.{number}"
        writer = store.open(identity(uid))
        data = memoryview(data_set(uid, study=None if ending == "failure" else "1.2.3"))
        writer.write([data], len(data))
        if ending == "commit":
            writer.commit()
            writer.release()
        elif ending == "discard":
            writer.discard()
        else:
            with pytest.raises(Exception, match="UID"):
                writer.commit()
    assert open_descriptors() == before
    store.close()
