"""When peers last stored, kept as file times: the newest counts, and a failing store does not stop the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomd.store.last_stores import LastStores


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dicomd").mkdir()
    return tmp_path


def test_what_was_noted_is_known_after_a_restart(root: Path) -> None:
    LastStores(root).record({"ct1": 1000.5, "unknown": 2000.0})
    assert LastStores(root).read(["ct1", "mr1", "unknown"]) == {"ct1": 1000.5, "unknown": 2000.0}


def test_the_newest_note_of_several_workers_counts(root: Path) -> None:
    one, other = LastStores(root), LastStores(root)
    one.record({"ct1": 2000.0})
    other.record({"ct1": 1000.0})
    assert LastStores(root).read(["ct1"]) == {"ct1": 2000.0}
    other.record({"ct1": 3000.0})
    assert LastStores(root).read(["ct1"]) == {"ct1": 3000.0}


def test_a_note_that_hasn_t_changed_touches_nothing(root: Path) -> None:
    notes = LastStores(root)
    notes.record({"ct1": 1000.0})
    (file,) = (root / ".dicomd" / "peers").iterdir()
    file.unlink()
    notes.record({"ct1": 1000.0})
    assert not file.exists()


def test_without_the_store_reading_knows_nothing_and_writing_fails(tmp_path: Path) -> None:
    assert LastStores(tmp_path / "none").read(["ct1"]) == {}
    with pytest.raises(OSError, match="No such file"):
        LastStores(tmp_path / "none").record({"ct1": 1.0})


def test_a_note_that_cannot_be_written_keeps_no_other_from_being_written(root: Path) -> None:
    notes = LastStores(root)
    notes.record({"ct1": 1000.0})
    bad = root / ".dicomd" / "peers" / "ct2.peer"
    bad.symlink_to(bad)
    with pytest.raises(OSError, match="symbolic links"):
        notes.record({"ct1": 2000.0, "ct2": 2000.0, "mr1": 2000.0})
    assert LastStores(root).read(["ct1", "ct2", "mr1"]) == {"ct1": 2000.0, "mr1": 2000.0}
    bad.unlink()
    notes.record({"ct2": 2000.0})
    assert LastStores(root).read(["ct2"]) == {"ct2": 2000.0}
