"""Temporary files: each process owns its own, and a start removes those of the dead only."""

import os
import signal
from pathlib import Path

import pytest

from tests.unit.store.instances import data_set, file_store, files, identity, open_descriptors, put
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
            assert file_store(tmp_path, start=False).start() == 1  # the parent's; the child goes on
            assert len(files(tmp_path)) == 1
        finally:
            os.kill(child, signal.SIGKILL)


def test_files_without_a_lock_are_swept(tmp_path: Path) -> None:
    file_store(tmp_path).close()
    (tmp_path / ".dicomd" / "tmp" / "0123456789ab-1").write_bytes(b"left by a crash")
    (tmp_path / ".dicomd" / "tmp" / "whatever").write_bytes(b"")
    assert file_store(tmp_path, start=False).start() == 2
    assert files(tmp_path) == []


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
