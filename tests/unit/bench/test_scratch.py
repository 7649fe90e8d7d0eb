"""Scratch folders are emptied at once and deleted at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scratch import Scratch


def test_files_are_emptied_when_their_folder_is_done_with_and_deleted_at_the_end(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    with scratch.folder("one") as folder:
        inner = folder / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(b"content")
    assert (inner / "file").stat().st_size == 0
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_link_points_to_is_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"content")
    scratch = Scratch(tmp_path)
    with scratch.folder("one") as folder:
        (folder / "link").symlink_to(outside)
    scratch.remove()
    assert outside.read_bytes() == b"content"


def test_a_folder_is_where_files_are_created_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([3.0, 2.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr("bench.scratch._seconds_to_create", lambda _folder: next(seconds))
    scratch = Scratch(tmp_path)
    with scratch.folder("one") as folder:
        assert folder.name == "0003-one"
    scratch.remove()


def test_no_two_folders_are_the_same(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    with scratch.folder("one") as first, scratch.folder("one") as second:
        assert first != second
    scratch.remove()
