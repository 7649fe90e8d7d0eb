"""A missing mount isn't taken for an empty store: it is detected at the start, by remembered stores and /etc/fstab."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomd.store import mounts
from dicomd.store.errors import StoreUnavailable
from tests.unit.store.instances import data_set, file_store, identity, put


def test_what_is_remembered_of_several_stores(tmp_path: Path) -> None:
    record = tmp_path / "stores"
    assert mounts.recall(record, Path("/a")) == b""
    mounts.remember(record, Path("/a"), b"dicomd store 1")
    mounts.remember(record, Path("/b c"), b"dicomd store 2")
    mounts.remember(record, Path("/a"), b"dicomd store 3")
    assert mounts.recall(record, Path("/a")) == b"dicomd store 3"
    assert mounts.recall(record, Path("/b c")) == b"dicomd store 2"
    assert mounts.recall(record, Path("/b")) == b""
    assert list(tmp_path.iterdir()) == [record]


def test_a_store_is_remembered_by_its_root_and_by_where_that_leads(tmp_path: Path) -> None:
    record, real, link = tmp_path / "stores", tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)  # whether it is mounted or not
    mounts.remember(record, link, b"dicomd store 1")
    for root in (link, real, tmp_path / "." / "real"):
        assert mounts.recall(record, root) == b"dicomd store 1"
    mounts.remember(record, real, b"dicomd store 2")
    assert mounts.recall(record, real) == b"dicomd store 2"


def test_records_of_symbolic_links_from_before_are_good(tmp_path: Path) -> None:
    record, link = tmp_path / "stores", tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    record.write_bytes(b"dicomd store 1\t%s\n" % os.fsencode(link))
    assert mounts.recall(record, link) == b"dicomd store 1"
    mounts.remember(record, link, b"dicomd store 1")
    assert mounts.recall(record, tmp_path / "real") == b"dicomd store 1"


def test_remembering_what_is_known_writes_nothing(tmp_path: Path) -> None:
    record = tmp_path / "stores"
    mounts.remember(record, Path("/a"), b"x")
    before = record.stat()
    mounts.remember(record, Path("/a"), b"x")
    after = record.stat()  # reading may have changed the time of the last access
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "stores"
    mounts.remember(record, Path("/a"), b"x")

    def fsync(fd: int) -> None:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="I/O"):
        mounts.remember(record, Path("/a"), b"y")
    assert mounts.recall(record, Path("/a")) == b"x"
    assert list(tmp_path.iterdir()) == [record]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/dev/sdb1 {0}/disk ext4 defaults 0 2", "{0}/disk"),
        ("LABEL=x {0}/disk/store xfs noauto", "{0}/disk/store"),
        ("/dev/sdb1 {0}/with\\040space ext4 defaults 0 2", ""),
        ("# /dev/sdb1 {0}/disk ext4 defaults", ""),
        ("/dev/sdb1 / ext4 defaults", ""),
        ("/dev/sdb1 {0}/disk/store/below ext4", ""),
        ("/dev/sdb1 {0}/dis ext4", ""),
        ("/dev/sdb2 none swap sw 0 0", ""),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_a_mount_point_without_its_mount(tmp_path: Path, line: str, expected: str) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(f"# a comment\n\n{line.format(tmp_path)}\n")
    assert mounts.missing_mount(tmp_path / "disk" / "store", fstab) == expected.format(tmp_path)


def test_spaces_in_a_mount_point(tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdb1 {tmp_path}/with\\040space ext4 defaults 0 2\n")
    assert mounts.missing_mount(tmp_path / "with space", fstab) == f"{tmp_path}/with space"
    assert mounts.missing_mount(tmp_path, tmp_path / "none") == ""


def test_a_start_where_fstab_misses_its_mount_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "missing_mount", str)
    (tmp_path / "root").mkdir()
    with pytest.raises(StoreUnavailable, match="Not mounted"):
        file_store(tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_store_that_is_there_is_not_asked_about_its_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_store(tmp_path).close()
    monkeypatch.setattr(mounts, "missing_mount", str)
    assert file_store(tmp_path).state.accepting


@pytest.mark.parametrize("place", ["empty folder", "no folder", "another store"])
def test_a_start_where_the_known_store_is_missing_makes_nothing_and_waits(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    first = file_store(root)
    put(first, data_set("1.1"), identity("1.1"))
    known = first.name
    first.close()
    root.rename(tmp_path / "away")
    if place == "empty folder":
        root.mkdir()
    elif place == "another store":
        file_store(root).close()
    before = sorted(root.rglob("*"))
    store = file_store(root, start=False)
    assert store.start(known) == 0
    store.check()
    assert not store.state.accepting
    assert not store.state.space_low
    with pytest.raises(StoreUnavailable, match="place" if place == "another store" else "mounted"):
        store.open(identity())
    assert sorted(root.rglob("*")) == before
    if root.exists():
        root.rename(tmp_path / "other")
    (tmp_path / "away").rename(root)
    store.check()
    assert store.state.accepting
    put(store, data_set())
    assert store.name == known


def test_the_known_store_in_its_place_is_started(tmp_path: Path) -> None:
    first = file_store(tmp_path)
    first.close()
    store = file_store(tmp_path, start=False)
    store.start(first.name)
    assert store.state.accepting
    assert store.name == first.name != b""


def test_a_sentinel_without_a_name_is_no_sentinel(tmp_path: Path) -> None:
    file_store(tmp_path).close()
    (tmp_path / ".dicomd" / "store").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="empty"):
        file_store(tmp_path)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "mounted"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "dicomd-test", point], check=True)
    yield point
    while point.is_mount():
        subprocess.run(["umount", "-l", point], check=True)


@pytest.mark.root
def test_what_is_mounted_is_not_missed(tmpfs: Path, tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(f"tmpfs {tmpfs} tmpfs defaults 0 0\n")
    assert mounts.missing_mount(tmpfs / "store", fstab) == ""
    subprocess.run(["umount", tmpfs], check=True)
    assert mounts.missing_mount(tmpfs / "store", fstab) == str(tmpfs)


def test_a_subvolume_in_the_kernels_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where there is no btrfs: what the kernel and stat(2) say of such a mount, and of a plain folder."""
    (tmp_path / "in").mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 0:41 /@ {tmp_path} rw - btrfs /dev/sdb1 rw,subvol=/@\n"
        f"2 1 0:41 /@/in {tmp_path}/in rw - btrfs /dev/sdb1 rw,subvol=/@/in\n"
    )
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdb1 {tmp_path} btrfs\n/dev/sdb1 {tmp_path}/in btrfs subvol=/@/in\n")
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    monkeypatch.setattr(mounts, "_mount_id", lambda _place: "2")
    assert mounts.missing_mount(tmp_path / "in", fstab) == f"{tmp_path}/in"
    monkeypatch.setattr(mounts, "_SUBVOLUME_INODE", (tmp_path / "in").stat().st_ino)
    assert mounts.missing_mount(tmp_path / "in", fstab) == ""


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("on", "expected"), [("1", "/data"), ("2", "")])
def test_the_first_mount_of_all_has_nothing_beneath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, expected: str
) -> None:
    """Its parent is itself (proc_pid_mountinfo(5)): where a system runs from its initramfs, or in gVisor."""
    table, fstab = tmp_path / "mountinfo", tmp_path / "fstab"
    table.write_text("1 1 0:2 / / rw - rootfs rootfs rw\n2 1 8:17 / /data rw - ext4 /dev/sdb1 rw\n")
    fstab.write_text("/dev/sdb1 /data ext4 defaults 0 2\n")
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    monkeypatch.setattr(mounts, "_mount_id", lambda _place: on)
    assert mounts.missing_mount(Path("/data/store"), fstab) == expected
