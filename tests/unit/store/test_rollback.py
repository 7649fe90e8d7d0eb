"""Taking a name back removes only the candidate's own file, whatever others put there in between."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomd.store.errors import StoreUnavailable
from dicomd.store.verification import verify
from tests.unit.store.instances import (
    INSTANCE,
    SERIES,
    SETTINGS,
    STUDY,
    data_set,
    file_store,
    files,
    identity,
    path_of,
    put,
)
from tests.unit.store.interleaving import Publication, World, stepped

PLACE = f"{STUDY}/{SERIES}/{INSTANCE}.dcm"


def fails_after_its_name_was_given(
    monkeypatch: pytest.MonkeyPatch, root: Path, before_the_rename: Callable[[], object]
) -> None:
    """Make the sync of the series fail, and act between the check of the name and its removal."""
    fsync, rename = os.fsync, os.rename

    def failing_sync(fd: int) -> None:
        if path_of(fd).name == SERIES:
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    def late_rename(source: str, target: str, **options: Any) -> None:
        if str(target).endswith("-w"):
            monkeypatch.setattr(os, "fsync", fsync)
            before_the_rename()
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", failing_sync)
    monkeypatch.setattr(os, "rename", late_rename)
    with pytest.raises(StoreUnavailable):
        put(file_store(root, duplicates="replace"), data_set(pixels=b"ours"))


@pytest.mark.parametrize("theirs", [b"ours", b"else"])
def test_what_another_worker_publishes_in_place_of_ours_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes
) -> None:
    """Ours is moved away just when it is to be taken back; the other worker's file in its place is acknowledged."""
    another = file_store(tmp_path)

    def move_and_publish() -> None:
        (tmp_path / PLACE).rename(tmp_path / "moved.dcm")
        assert put(another, data_set(pixels=theirs)).duplicate == ""

    fails_after_its_name_was_given(monkeypatch, tmp_path, move_and_publish)
    assert (tmp_path / PLACE).read_bytes().endswith(theirs)
    assert files(tmp_path) == [PLACE, "moved.dcm"]


@pytest.mark.parametrize("kind", ["file", "symbolic link to ours", "symbolic link to nowhere"])
def test_whatever_comes_to_the_name_meanwhile_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def come() -> None:
        (tmp_path / PLACE).rename(tmp_path / "moved.dcm")
        if kind == "file":
            (tmp_path / PLACE).write_text("restored from a backup")
        else:
            (tmp_path / PLACE).symlink_to(tmp_path / ("moved.dcm" if kind.endswith("ours") else "nowhere"))

    fails_after_its_name_was_given(monkeypatch, tmp_path, come)
    assert (tmp_path / PLACE).is_symlink() == (kind != "file")
    assert files(tmp_path) == [PLACE, "moved.dcm"]


def test_it_gets_the_next_name_where_its_own_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def come() -> None:
        (tmp_path / PLACE).write_text("restored from a backup")

    def come_again(source: str, target: str, **options: Any) -> None:
        if str(source).endswith("-w") and not (tmp_path / PLACE).exists():
            (tmp_path / PLACE).write_text("another")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", come_again)
    fails_after_its_name_was_given(monkeypatch, tmp_path, lambda: ((tmp_path / PLACE).unlink(), come()))
    assert (tmp_path / PLACE).read_text() == "another"
    assert (tmp_path / PLACE).with_stem(f"{INSTANCE}_1").read_text() == "restored from a backup"


def killed_while_it_takes_its_name_back(world: World, before: str, come: Callable[[Path], object]) -> None:
    """A publication whose sync fails is killed before the given call; `come` acts just before its rename."""
    with stepped(lambda: world):
        publication = Publication(world, b"ours", failing_sync=1)
        for call in ("rename", before):
            while publication.pending != call:
                publication.advance()
            if call == "rename":
                come(world.root / PLACE)
                publication.advance()
        publication.kill()


def test_a_kill_while_a_name_is_taken_back_loses_nothing_of_anothers(tmp_path: Path) -> None:
    """The process dies while another's instance has the private name, which no sweep may remove."""
    world = World(tmp_path, "keep-both")

    def come(path: Path) -> None:
        path.unlink()
        path.write_text("restored from a backup")

    killed_while_it_takes_its_name_back(world, "link", come)
    for _ in range(2):
        file_store(world.root)
        (left,) = files(world.root)
        assert left.startswith(".dicomd/tmp/")
        assert (world.root / left).read_text() == "restored from a backup"
        found = [(finding.path, finding.problem) for finding in verify(world.root, SETTINGS.layout) if finding.problem]
        assert found == [(left, "an instance left here by a crash")]


def test_a_kill_while_a_name_is_taken_back_leaves_nothing_of_ours(tmp_path: Path) -> None:
    world = World(tmp_path, "keep-both")
    killed_while_it_takes_its_name_back(world, "unlink", lambda _path: None)
    assert len(files(world.root)) == 2
    assert file_store(world.root, start=False).start() == 2
    assert files(world.root) == []


def test_descriptors_that_can_not_be_closed_well_change_nothing_once_it_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    close = os.close
    put(store, data_set("1.1"), identity("1.1"))

    def failing_close(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing_close)
        assert put(store, data_set()).duplicate == ""
        assert put(store, data_set()).duplicate == "identical"
    assert (tmp_path / PLACE).exists()
