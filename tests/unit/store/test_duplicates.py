"""The same SOP Instance UID again: identical or not, in succession or at once, under each policy."""

import fcntl
import importlib
import os
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dicomd.store.errors import DuplicateRejected, StoreError, StoreUnavailable
from dicomd.store.part10 import header
from tests.unit.store.instances import (
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    SERIES,
    STUDY,
    data_set,
    file_store,
    files,
    identity,
    put,
)
from tests.unit.store.processes import Process

FOLDER = f"{STUDY}/{SERIES}"
POLICIES = ("keep-both", "replace", "reject")


def name(number: int = 0) -> str:
    return f"{FOLDER}/{INSTANCE}_{number}.dcm" if number else f"{FOLDER}/{INSTANCE}.dcm"


def content(root: Path, number: int = 0) -> bytes:
    return (root / name(number)).read_bytes()


@pytest.mark.parametrize("durability", ["fsync", "none"])
@pytest.mark.parametrize("duplicates", POLICIES)
def test_an_identical_duplicate_is_stored_without_a_second_file(
    tmp_path: Path, duplicates: str, durability: str
) -> None:
    store = file_store(tmp_path, duplicates=duplicates, durability=durability)
    first = put(store, data_set())
    inode = first.path.stat().st_ino
    again = put(store, data_set(), identity(calling="OTHER"))  # File Meta Information is not compared
    assert (again.path, again.duplicate) == (first.path, "identical")
    assert first.path.stat().st_ino == inode
    assert files(tmp_path) == [name()]


@pytest.mark.parametrize("pixels", [b"\1\2\3\5", b"\1\2\3\4\5\6", b"\1\2", b"\1\2\3\4" * 200_000])
def test_keep_both_gives_another_data_set_its_own_name(tmp_path: Path, pixels: bytes) -> None:
    store = file_store(tmp_path)
    put(store, data_set())
    other = put(store, data_set(pixels=pixels))
    assert (other.path, other.duplicate) == (tmp_path / name(1), "kept-both")
    assert content(tmp_path, 1) == header(identity()) + data_set(pixels=pixels)
    assert content(tmp_path) == header(identity()) + data_set()
    assert put(store, data_set(pixels=pixels)).duplicate == "identical"
    assert files(tmp_path) == [name(), name(1)]


def test_keep_both_knows_each_of_many_again(tmp_path: Path) -> None:
    store = file_store(tmp_path, durability="none")
    for number in range(12):
        assert put(store, data_set(pixels=bytes([number, 0]))).path == tmp_path / name(number)
    for number in range(12):
        again = put(store, data_set(pixels=bytes([number, 0])))
        assert (again.path, again.duplicate) == (tmp_path / name(number), "identical")
    assert len(files(tmp_path)) == 12


def test_large_data_sets_that_differ_in_the_last_byte_differ(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    pixels = bytes(1 << 20)
    put(store, data_set(pixels=pixels))
    assert put(store, data_set(pixels=pixels)).duplicate == "identical"
    assert put(store, data_set(pixels=pixels[:-1] + b"\1")).duplicate == "kept-both"


def test_the_same_bytes_in_another_transfer_syntax_differ(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    put(store, data_set(syntax=IMPLICIT), identity(syntax=IMPLICIT))
    assert put(store, data_set(syntax=IMPLICIT), identity(syntax=EXPLICIT)).duplicate == "kept-both"


def test_replace_puts_the_new_one_in_the_old_ones_place(tmp_path: Path) -> None:
    store = file_store(tmp_path, duplicates="replace")
    put(store, data_set())
    replaced = put(store, data_set(pixels=b"new!"))
    assert (replaced.path, replaced.duplicate) == (tmp_path / name(), "replaced")
    assert content(tmp_path) == header(identity()) + data_set(pixels=b"new!")
    assert files(tmp_path) == [name()]


def test_reject_refuses_the_other_and_keeps_the_first(tmp_path: Path) -> None:
    store = file_store(tmp_path, duplicates="reject")
    put(store, data_set())
    with pytest.raises(DuplicateRejected):
        put(store, data_set(pixels=b"new!"))
    assert content(tmp_path) == header(identity()) + data_set()
    assert files(tmp_path) == [name()]
    assert store.state.accepting


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "fifo", "dangling link", "cut off"])
def test_what_is_no_part_10_file_counts_as_another_data_set(tmp_path: Path, kind: str) -> None:
    store = file_store(tmp_path)
    path = tmp_path / name()
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes({"text": b"not DICOM", "empty": b"", "cut off": header(identity()) + data_set()[:-1]}[kind])
    assert put(store, data_set()).path == tmp_path / name(1)


def test_an_existing_file_of_another_writer_is_compared_by_its_data_set(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    path = tmp_path / name()
    path.parent.mkdir(parents=True)
    foreign = bytes(range(128)) + header(identity(calling="SOMEBODY ELSE"))[128:]
    path.write_bytes(foreign + data_set())
    assert put(store, data_set()).duplicate == "identical"


def test_two_writers_in_one_thread_do_not_wait_for_each_others_release(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    writers = [store.open(identity()) for _ in range(3)]
    outcomes = []
    for writer in writers:
        data = memoryview(data_set())
        writer.write([data], len(data))
    outcomes = [writer.commit().duplicate for writer in writers]
    for writer in writers:
        writer.release()
    assert outcomes == ["", "identical", "identical"]
    assert files(tmp_path) == [name()]


def outcomes_of_threads(root: Path, duplicates: str, pixels: list[bytes]) -> list[str]:
    store = file_store(root, duplicates=duplicates)
    outcomes: list[str] = []
    start = threading.Barrier(len(pixels))

    def send(value: bytes) -> None:
        writer = store.open(identity())
        data = memoryview(data_set(pixels=value))
        writer.write([data], len(data))
        start.wait()
        try:
            outcomes.append(writer.commit().duplicate)
        except StoreError as error:
            outcomes.append(type(error).__name__)
        writer.release()

    threads = [threading.Thread(target=send, args=(value,)) for value in pixels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("duplicates", POLICIES)
def test_equal_data_sets_at_once_become_one_file(tmp_path: Path, duplicates: str) -> None:
    for turn in range(10):
        root = tmp_path / str(turn)
        outcomes = outcomes_of_threads(root, duplicates, [b"same"] * 6)
        assert Counter(outcomes) == {"": 1, "identical": 5}
        assert files(root) == [name()]


def test_different_data_sets_at_once_are_all_kept(tmp_path: Path) -> None:
    for turn in range(10):
        root = tmp_path / str(turn)
        outcomes = outcomes_of_threads(root, "keep-both", [b"AAAA", b"BBBB", b"CCCC"] * 2)
        assert Counter(outcomes) == {"": 1, "kept-both": 2, "identical": 3}
        assert files(root) == [name(), name(1), name(2)]
        assert {content(root, number)[-4:] for number in range(3)} == {b"AAAA", b"BBBB", b"CCCC"}


def test_of_different_data_sets_at_once_reject_keeps_one(tmp_path: Path) -> None:
    for turn in range(10):
        root = tmp_path / str(turn)
        outcomes = outcomes_of_threads(root, "reject", [b"AAAA", b"BBBB", b"CCCC"])
        assert Counter(outcomes) == {"": 1, "DuplicateRejected": 2}
        assert files(root) == [name()]


def test_of_different_data_sets_at_once_replace_keeps_a_whole_one(tmp_path: Path) -> None:
    for turn in range(10):
        root = tmp_path / str(turn)
        outcomes = outcomes_of_threads(root, "replace", [b"AAAA", b"BBBB", b"CCCC"])
        assert Counter(outcomes) == {"": 1, "replaced": 2}
        assert files(root) == [name()]
        assert content(root) in {header(identity()) + data_set(pixels=value) for value in (b"AAAA", b"BBBB", b"CCCC")}


@pytest.mark.parametrize(("duplicates", "most"), [("keep-both", 6), ("replace", 1)])
def test_equal_uids_from_several_processes_are_safe(tmp_path: Path, duplicates: str, most: int) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(Process("send", tmp_path, duplicates, seed)) for seed in range(4)]
        for process in processes:
            process.wait_until_ready()
        for process in processes:
            process.go()
        assert [process.popen.wait(50) for process in processes] == [0] * 4
    found = files(tmp_path)
    assert not any(path.startswith(".dicomd") for path in found)
    for number in range(10):
        uid = f"1.{number}"
        paths = [path for path in found if path.split("/")[-1].partition("_")[0].removesuffix(".dcm") == uid]
        contents = {(tmp_path / path).read_bytes() for path in paths}
        assert len(contents) == len(paths)  # never two files with the same bytes
        assert 1 <= len(paths) <= most
        if duplicates == "keep-both":
            assert len(paths) == most
    assert len(list((tmp_path / ".dicomd" / "locks").iterdir())) == 0


def test_the_data_sets_kept_under_one_uid_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomd.store.publish._MAX_DIFFERENT", 3)
    store = file_store(tmp_path)
    for number in range(3):
        put(store, data_set(pixels=bytes([number, 0])))
    with pytest.raises(DuplicateRejected, match="Too many"):
        put(store, data_set(pixels=b"\3\0"))
    assert files(tmp_path) == [name(), name(1), name(2)]
    assert put(store, data_set(pixels=b"\2\0")).duplicate == "identical"


def test_a_lock_that_another_program_keeps_does_not_hold_us_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomd.store.duplicates._LOCK_DEADLINE", 0.05)
    store = file_store(tmp_path)
    with put(store, data_set()).path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable) as caught:
            put(store, data_set())
    assert caught.value.operation == "lock"
    assert store.state.accepting
    assert put(store, data_set()).duplicate == "identical"


def test_a_name_that_already_leads_to_the_own_file_is_no_duplicate(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    writer = store.open(identity())
    data = memoryview(data_set())
    writer.write([data], len(data))
    (temporary,) = files(tmp_path)
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / name()).hardlink_to(tmp_path / temporary)
    assert writer.commit().duplicate == ""
    writer.release()
    assert files(tmp_path) == [name()]


@pytest.mark.parametrize("moment", ["before opening", "while waiting for the lock"])
def test_an_existing_file_that_vanishes_while_it_is_examined_is_no_duplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = file_store(tmp_path)
    path = put(store, data_set()).path
    function = "examine" if moment == "before opening" else "_lock"
    module = "publish" if moment == "before opening" else "duplicates"
    original = getattr(importlib.import_module(f"dicomd.store.{module}"), function)

    def vanish_first(*arguments: Any) -> Any:
        path.unlink(missing_ok=True)
        return original(*arguments)

    monkeypatch.setattr(f"dicomd.store.{module}.{function}", vanish_first)
    assert put(store, data_set()).duplicate == ""
    assert files(tmp_path) == [name()]
