"""Publishing while others delete, move and recreate folders, and the order in which changes reach the disk."""

import errno
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dicomd.store.directories import Directories
from tests.unit.store.instances import (
    INSTANCE,
    SERIES,
    STUDY,
    data_set,
    file_store,
    files,
    identity,
    open_descriptors,
    path_of,
    put,
)

FOLDER = f"{STUDY}/{SERIES}"


def instance(root: Path, uid: str) -> Path:
    return root / FOLDER / f"{uid}.dcm"


@pytest.mark.parametrize("durability", ["fsync", "none"])
@pytest.mark.parametrize("what", ["file", "series", "study"])
def test_what_was_deleted_is_made_again(tmp_path: Path, what: str, durability: str) -> None:
    store = file_store(tmp_path, durability=durability)
    for number in range(3):
        stored = put(store, data_set())
        assert stored.duplicate == ""
        assert stored.path.exists()
        if what == "file":
            stored.path.unlink()
        else:
            shutil.rmtree(stored.path.parent if what == "series" else stored.path.parent.parent)
        assert files(tmp_path) == [], number


@pytest.mark.parametrize("durability", ["fsync", "none"])
@pytest.mark.parametrize("what", [FOLDER, STUDY])
def test_after_a_folder_was_moved_the_next_instance_goes_where_the_path_leads(
    tmp_path: Path, what: str, durability: str
) -> None:
    store = file_store(tmp_path / "root", durability=durability)
    put(store, data_set("1.1"), identity("1.1"))
    (tmp_path / "root" / what).rename(tmp_path / "archive")
    put(store, data_set("1.2"), identity("1.2"))
    assert files(tmp_path / "root") == [f"{FOLDER}/1.2.dcm"]
    assert [path.name for path in (tmp_path / "archive").rglob("*.dcm")] == ["1.1.dcm"]


@pytest.mark.parametrize("duplicates", ["replace", "reject", "keep-both"])
def test_what_was_moved_away_is_neither_replaced_nor_in_the_way(tmp_path: Path, duplicates: str) -> None:
    store = file_store(tmp_path / "root", duplicates=duplicates)
    put(store, data_set(pixels=b"old!"))
    (tmp_path / "root" / STUDY).rename(tmp_path / "archive")
    stored = put(store, data_set(pixels=b"new!"))
    assert stored.path == instance(tmp_path / "root", INSTANCE)
    assert stored.path.read_bytes().endswith(b"new!")
    (archived,) = (tmp_path / "archive").rglob("*.dcm")
    assert archived.read_bytes().endswith(b"old!")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ESTALE])
def test_a_folder_of_a_mount_that_has_gone_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = file_store(tmp_path)
    put(store, data_set("1.1"), identity("1.1"))
    link, failed = os.link, []

    def link_of_another_mount(source: str, target: str, **options: Any) -> None:
        if not failed and "dst_dir_fd" in options:
            failed.append(target)
            raise OSError(number, os.strerror(number))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", link_of_another_mount)
    assert put(store, data_set("1.2"), identity("1.2")).path.exists()
    assert failed == ["1.2.dcm"]


@pytest.mark.parametrize("durability", ["fsync", "none"])
def test_a_replacement_whose_folder_is_pruned_meanwhile_is_stored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    store = file_store(tmp_path, duplicates="replace", durability=durability)
    put(store, data_set(pixels=b"old!"))
    rename, pruned = os.rename, []

    def prune_and_rename(source: str, target: str, **options: Any) -> None:
        if not pruned:
            pruned.append(target)
            shutil.rmtree(tmp_path / STUDY)
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", prune_and_rename)
    assert put(store, data_set(pixels=b"new!")).path.read_bytes().endswith(b"new!")
    assert len(pruned) == 1
    assert list((tmp_path / ".dicomd" / "tmp").iterdir()) == []


def test_a_folder_that_is_replaced_in_the_middle_of_publishing_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path / "root")
    put(store, data_set("1.1"), identity("1.1"))
    link = os.link
    moved: list[str] = []

    def move_and_link(source: str, target: str, **options: Any) -> None:
        link(source, target, **options)
        if not moved:
            (tmp_path / "root" / FOLDER).rename(tmp_path / "archive")
            (tmp_path / "root" / FOLDER).mkdir()
            moved.append(target)

    monkeypatch.setattr(os, "link", move_and_link)
    stored = put(store, data_set("1.2"), identity("1.2"))
    assert moved == ["1.2.dcm"]
    assert stored.path == instance(tmp_path / "root", "1.2")
    assert files(tmp_path / "root") == [f"{FOLDER}/1.2.dcm"]
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["1.1.dcm"]


@pytest.mark.parametrize("durability", ["fsync", "none"])
def test_a_pruning_job_that_removes_empty_folders_meanwhile_loses_nothing(tmp_path: Path, durability: str) -> None:
    store = file_store(tmp_path, durability=durability)
    stop = threading.Event()
    failures: list[BaseException] = []

    def prune() -> None:
        while not stop.is_set():
            for folder in (tmp_path / FOLDER, tmp_path / STUDY):
                with suppress(OSError):
                    folder.rmdir()

    def send(thread: int) -> None:
        try:
            for number in range(60):
                uid = f"1.{thread}.{number}"
                stored = put(store, data_set(uid), identity(uid))
                assert stored.path.exists()
                stored.path.unlink()
        except BaseException as error:
            failures.append(error)

    pruner = threading.Thread(target=prune)
    senders = [threading.Thread(target=send, args=(thread,)) for thread in range(3)]
    for thread in (pruner, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    stop.set()
    pruner.join()
    assert failures == []
    assert files(tmp_path) == []


def test_success_comes_after_data_file_directory_and_new_parents_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    another = file_store(tmp_path)
    calls: list[str] = []

    def where(fd: int) -> str:
        return str(path_of(fd).relative_to(tmp_path))

    def record(name: str) -> None:
        original = getattr(os, name)

        def recorded(*arguments: Any, **options: Any) -> Any:
            if name in ("fsync", "fdatasync"):
                calls.append(f"{name} {where(arguments[0])}".replace(temporary, "temporary"))
            elif name == "link":
                calls.append(f"link {where(options['dst_dir_fd'])}/{arguments[1]}")
            else:
                calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, recorded)

    writer = store.open(identity())
    data = memoryview(data_set())
    writer.write([data], len(data))
    (temporary,) = files(tmp_path)
    for name in ("fsync", "fdatasync", "link", "unlink"):
        record(name)
    writer.commit()
    assert calls == [
        "fdatasync temporary",
        f"link {FOLDER}/{INSTANCE}.dcm",
        f"fsync {FOLDER}",
        f"fsync {STUDY}",
        "fsync .",
    ]
    writer.release()
    assert calls[5:] == ["unlink"]

    calls.clear()  # a second one of the series syncs only its folder; an identical one, the file too
    put(store, data_set("1.9"), identity("1.9"))
    assert calls[2:] == [f"fsync {FOLDER}", "unlink"]
    calls.clear()
    put(store, data_set())
    assert calls[1:] == [f"link {FOLDER}/{INSTANCE}.dcm", f"fsync {FOLDER}/{INSTANCE}.dcm", f"fsync {FOLDER}", "unlink"]

    calls.clear()  # another process doesn't know what this one has synced
    put(another, data_set())
    assert calls[-5:] == [
        f"fsync {FOLDER}/{INSTANCE}.dcm",
        f"fsync {FOLDER}",
        f"fsync {STUDY}",
        "fsync .",
        "unlink",
    ]


def test_a_folder_is_synced_through_the_descriptor_that_the_link_went_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux reports a failed write only to descriptors open at that time; one opened for the sync may not get it."""
    store = file_store(tmp_path)
    linked: list[int] = []
    synced: list[int] = []
    link, fsync = os.link, os.fsync

    def record_link(source: str, target: str, **options: Any) -> None:
        linked.append(options["dst_dir_fd"])
        link(source, target, **options)

    def record_fsync(fd: int) -> None:
        synced.append(fd)
        fsync(fd)

    monkeypatch.setattr(os, "link", record_link)
    monkeypatch.setattr(os, "fsync", record_fsync)
    put(store, data_set())
    assert synced[0] == linked[0]
    synced.clear()
    put(store, data_set("1.9"), identity("1.9"))
    assert synced == linked[1:]


def test_without_durability_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path, durability="none")

    def never(fd: int) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "fsync", never)
    monkeypatch.setattr(os, "fdatasync", never)
    assert put(store, data_set()).sync_seconds == 0
    assert put(store, data_set()).duplicate == "identical"


def test_the_cache_of_directories_is_bounded_and_closes_what_it_drops(tmp_path: Path) -> None:
    directories = Directories(str(tmp_path), capacity=3)
    before = len(open_descriptors())
    held = directories.open_or_make("0")
    directories.keep(held)
    for number in range(10):
        directories.keep(directories.open_or_make(str(number)))
    assert len(open_descriptors()) == before + 4
    assert os.fstat(held.fd).st_ino == (tmp_path / "0").stat().st_ino  # dropped from the cache, but still in use
    assert held.in_place()
    del held
    assert len(open_descriptors()) == before + 3
    directories.clear()
    assert len(open_descriptors()) == before
