"""Folders put in place with an instance inside, wherever the missing part begins and whatever is in the way."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomd.store import place_tree as tree_placing
from dicomd.store.errors import StoreError, StoreUnavailable
from tests.unit.store.instances import (
    INSTANCE,
    LAYOUT,
    SERIES,
    STUDY,
    data_set,
    file_store,
    files,
    folders,
    open_descriptors,
    path_of,
    put,
)

DEEP = "a/{StudyInstanceUID}/b/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"


class OnlyAsATree:
    """Removes the folders that a publication makes before it links into them, until it puts the whole tree in place.

    So it takes the way that it takes where others remove empty folders all the time. `before` and `after` are called
    before and after the first tree is put in place.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        self.plain = 0
        self.placed: list[bool] = []
        self._placing = False
        self._made: list[str] = []
        mkdir, link, original_place_tree = os.mkdir, os.link, tree_placing.place_tree

        def noted_mkdir(path: str, *arguments: Any, **options: Any) -> None:
            mkdir(path, *arguments, **options)
            if not self.placed and not self._placing:
                self._made.append(str(path_of(options["dir_fd"]) / path) if options.get("dir_fd") else path)

        def link_too_late(source: str, name: str, **options: Any) -> None:
            if not self.placed and not self._placing:
                self.plain += 1
                while self._made:
                    Path(self._made.pop()).rmdir()
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            link(source, name, **options)

        def place_tree(*arguments: Any, **options: Any) -> Any:
            self._placing = not self.placed
            if self._placing:
                before()
            result = original_place_tree(*arguments, **options)
            self.placed.append(result[0] is not None)
            if self._placing:
                after()
            self._placing = False
            return result

        monkeypatch.setattr(os, "mkdir", noted_mkdir)
        monkeypatch.setattr(os, "link", link_too_late)
        monkeypatch.setattr("dicomd.store.publish.place_tree", place_tree)


def nothing_temporary(root: Path) -> bool:
    return list((root / ".dicomd" / "tmp").iterdir()) == []


@pytest.mark.parametrize("durability", ["fsync", "none"])
@pytest.mark.parametrize("layout", [LAYOUT, DEEP, "{StudyInstanceUID}/{SOPInstanceUID}.dcm"])
@pytest.mark.parametrize("there", ["nothing", "empty", "half", "another"])
def test_the_missing_part_of_the_path_is_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, layout: str, there: str
) -> None:
    store = file_store(tmp_path, layout=layout, durability=durability)
    relative = Path(layout.format(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=INSTANCE))
    folder = tmp_path / relative.parent
    if there == "empty":
        folder.mkdir(parents=True)
    elif there == "half":
        folder.parent.mkdir(parents=True, exist_ok=True)
    elif there == "another":
        (folder.parent / "9.9").mkdir(parents=True)
        (folder.parent / "9.9" / "9.dcm").touch()
    only = OnlyAsATree(monkeypatch)
    stored = put(store, data_set())
    assert stored.path == tmp_path / relative
    assert (stored.duplicate, only.plain, only.placed) == ("", 2, [True])
    assert stored.path.stat().st_nlink == 1
    assert nothing_temporary(tmp_path)
    for made in (folder, folder.parent):
        assert made == tmp_path or made.stat().st_mode & 0o777 in (0o750, 0o755)


def test_a_layout_without_folders_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path, layout="{SOPInstanceUID}.dcm")
    only = OnlyAsATree(monkeypatch)
    assert put(store, data_set()).path == tmp_path / f"{INSTANCE}.dcm"
    assert only.placed == [False]


def test_where_no_folder_is_missing_nothing_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    first = put(store, data_set())
    only = OnlyAsATree(monkeypatch)
    assert put(store, data_set()).duplicate == "identical"
    assert put(store, data_set(pixels=b"else")).duplicate == "kept-both"
    assert only.placed == [False]
    assert first.path.exists()
    assert nothing_temporary(tmp_path)


def test_a_folder_that_is_removed_between_two_levels_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    (tmp_path / STUDY / "9.9").mkdir(parents=True)  # the study has contents, so placing a series is tried
    rename, tried = os.rename, []

    def rename_late(source: str, target: str, **options: Any) -> None:
        tried.append(Path(target).relative_to(tmp_path).as_posix())
        if len(tried) == 2:
            shutil.rmtree(tmp_path / STUDY)
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", rename_late)
    only = OnlyAsATree(monkeypatch)
    assert put(store, data_set()).path.exists()
    assert tried == [STUDY, f"{STUDY}/{SERIES}", STUDY]
    assert only.placed == [True]


def test_contents_that_appear_at_each_level_leave_the_place_to_an_ordinary_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)

    def others() -> None:
        (tmp_path / STUDY / SERIES).mkdir(parents=True)
        (tmp_path / STUDY / SERIES / "9.dcm").touch()

    only = OnlyAsATree(monkeypatch, others)
    assert put(store, data_set()).path.exists()
    assert only.placed == [False]
    assert nothing_temporary(tmp_path)


def test_what_was_placed_is_synced_inside_and_up_to_the_root_before_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def where(path: Path) -> str:
        return "/".join("private" if part.endswith("-d") else part for part in path.relative_to(tmp_path).parts)

    def recorded_fsync(fd: int) -> None:
        calls.append(where(path_of(fd)))
        fsync(fd)

    def recorded_rename(source: str, target: str, **options: Any) -> None:
        calls.append(f"rename {where(Path(target))}")
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    OnlyAsATree(monkeypatch)
    put(store, data_set())
    private = ".dicomd/tmp/private"
    assert calls == [
        f"{private}/{STUDY}/{SERIES}",
        f"{private}/{STUDY}",
        private,
        f"rename {STUDY}",
        f"{STUDY}/{SERIES}",
        STUDY,
        "",
    ]


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("call", ["mkdir", "link", "fsync", "open"])
def test_a_failure_at_any_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int
) -> None:
    before = open_descriptors()
    store = file_store(tmp_path)
    original, calls = getattr(os, call), 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        only = OnlyAsATree(patch, lambda: patch.setattr(os, call, failing))
        try:
            put(store, data_set())
        except StoreError:
            assert files(tmp_path) == []
            assert folders(tmp_path) == []
        else:
            assert calls <= at or only.placed  # it succeeded without that call, or ignored its failure
            assert files(tmp_path) == [f"{STUDY}/{SERIES}/{INSTANCE}.dcm"]
    assert nothing_temporary(tmp_path)
    store.close()
    assert open_descriptors() <= before


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", range(3))
def test_a_sync_that_fails_inside_speaks_against_the_store_whatever_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, number: int
) -> None:
    store = file_store(tmp_path)
    fsync, calls = os.fsync, 0

    def failing(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    OnlyAsATree(monkeypatch)
    with pytest.raises(StoreUnavailable) as caught:
        put(store, data_set())
    assert (caught.value.operation, caught.value.errno) == ("fsync", errno.errorcode[number])
    assert not store.state.accepting
    assert files(tmp_path) == []
    assert folders(tmp_path) == []


def test_what_was_placed_and_then_moved_away_before_it_is_decided_comes_to_its_place_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name in the archive stays: by the time that it could be removed, the instance may be acknowledged."""
    store = file_store(tmp_path / "root")
    OnlyAsATree(monkeypatch, after=lambda: (tmp_path / "root" / STUDY).rename(tmp_path / "archive"))
    stored = put(store, data_set())
    (archived,) = (tmp_path / "archive").rglob("*.dcm")
    assert stored.path.samefile(archived)
    assert nothing_temporary(tmp_path / "root")


@pytest.mark.parametrize("durability", ["fsync", "none"])
def test_what_was_placed_and_is_moved_away_once_it_is_decided_stays_in_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    store = file_store(tmp_path / "root", durability=durability)
    OnlyAsATree(monkeypatch)
    flock = fcntl.flock

    def move_and_unlock(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:  # the first thing that is done after the decision
            (tmp_path / "root" / STUDY).rename(tmp_path / "archive")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", move_and_unlock)
    put(store, data_set())
    assert [path.read_bytes()[-4:] for path in (tmp_path / "archive").rglob("*.dcm")] == [data_set()[-4:]]


def test_a_failure_after_it_was_placed_takes_the_instance_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    only, original, failures = OnlyAsATree(monkeypatch), os.open, list[int]()

    def failing(*arguments: Any, **options: Any) -> int:
        if only.placed and not failures:  # before the attempt meets the name that it has been given
            failures.append(errno.EIO)
            assert files(tmp_path)[-1] == f"{STUDY}/{SERIES}/{INSTANCE}.dcm"
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(*arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(StoreUnavailable):
        put(store, data_set())
    assert (only.placed, failures) == ([True], [errno.EIO])
    assert files(tmp_path) == []
    assert folders(tmp_path) == []


def test_a_start_removes_the_folders_that_a_crash_left(tmp_path: Path) -> None:
    file_store(tmp_path).close()
    left = tmp_path / ".dicomd" / "tmp" / "0123456789ab-1-d" / STUDY / SERIES
    left.mkdir(parents=True)
    (left / f"{INSTANCE}.dcm").write_bytes(b"left by a crash")
    assert file_store(tmp_path, start=False).start() == 0
    assert nothing_temporary(tmp_path)
