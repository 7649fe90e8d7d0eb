"""Whether the store accepts instances: roots that can't be written, quotas, disks that hang, and recovery."""

import errno
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicomd.lacks import Lack
from dicomd.store import filesystem, probe, space
from dicomd.store.errors import OutOfSpace, StoreError, StoreUnavailable
from tests.support.waiting import wait_until
from tests.unit.store.instances import data_set, file_store, files, identity, put

NOBODY = 65534
TIMEOUT = 60.0


@contextmanager
def nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder that users other than root can reach, unlike pytest's; mounts in it are removed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for point in Path(folder).iterdir():
            while point.is_mount():
                subprocess.run(["umount", "-l", point], check=True)


@pytest.mark.root
def test_a_root_closed_to_us_is_unavailable_though_its_own_folder_is_open(folder_for_all: Path) -> None:
    root = folder_for_all / "root"
    root.mkdir()
    os.chown(root, NOBODY, NOBODY)
    with nobody():
        store = file_store(root)
        put(store, data_set("1.1"), identity("1.1"))
    root.chmod(0o555)
    with nobody():
        store.check()
        assert not store.state.accepting
        assert not store.state.space_low
        assert "permission" in store.state.reason
        with pytest.raises(StoreUnavailable):
            store.open(identity())
        with pytest.raises(StoreUnavailable):
            file_store(root)
    root.chmod(0o755)
    with nobody():
        store.check()
        assert store.state.accepting
        put(store, data_set())
        store.close()


@pytest.mark.root
def test_a_quota_that_is_used_up_refuses_until_there_is_room_in_it_again(
    folder_for_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free space of the file system doesn't show a user's quota."""
    monkeypatch.setattr(probe, "_QUOTA_SIZE", 1 << 20)
    point = folder_for_all / "mounted"
    point.mkdir()
    options = "size=64m,usrquota,usrquota_block_hardlimit=4m,mode=777"
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "dicomd-test", point], capture_output=True, text=True, check=False
    )
    if mounting.returncode:
        pytest.skip(f"this kernel's tmpfs has no quotas: {mounting.stderr.strip()}")
    with nobody():
        store = file_store(point / "root")
        put(store, data_set("1.1"), identity("1.1"))
        ballast = point / "root" / "ballast"
        ballast.write_bytes(bytes(3 << 20))
        with pytest.raises(OutOfSpace) as caught:
            put(store, data_set(pixels=bytes(2 << 20)))
        assert caught.value.errno == "EDQUOT"
        assert [Path(path).name for path in files(point / "root")] == ["1.1.dcm", "ballast"]
        assert store.state.space_low
        store.check()  # 4 KiB would fit, but probably not the next object
        assert not store.state.accepting
        with pytest.raises(OutOfSpace, match="quota"):
            store.open(identity())
        ballast.unlink()
        store.check()
        assert store.state.accepting
        put(store, data_set(pixels=bytes(2 << 20)))
        assert list((point / "root" / ".dicomd" / "tmp").iterdir()) == []
        store.close()


def let_time_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so much time pass that the next check tries a small write."""
    later = time.monotonic() + 3600
    monkeypatch.setattr(filesystem, "time", SimpleNamespace(monotonic=lambda: later))


def test_a_quota_is_tried_for_a_good_deal_more_than_a_small_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as above without a file system that supports quotas."""
    store = file_store(tmp_path)
    store._condition.instance_failed(  # noqa: SLF001 - as a writer reports it
        OutOfSpace(Lack.QUOTA, operation="write", errno="EDQUOT")
    )
    assert (store.state.accepting, store.state.space_low) == (False, True)
    asked: list[int] = []

    def used_up(fd: int, offset: int, length: int) -> None:
        asked.append(length)
        if len(asked) == 1:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", used_up)
    store.check()
    assert (store.state.accepting, store.state.space_low) == (False, True)
    assert list((tmp_path / ".dicomd" / "tmp").iterdir()) == []
    store.check()
    assert store.state.accepting
    let_time_pass(monkeypatch)
    store.check()  # only a small file fits from now on
    assert asked == [64 << 20] * 2


def test_space_is_shown_also_while_nothing_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    store._condition.instance_failed(StoreUnavailable("Storage has an I/O error", operation="write", errno="EIO"))  # noqa: SLF001 - as a writer reports it
    seen = space.Space(avail_bytes=7, size_bytes=9, files_avail=3, files=0)
    monkeypatch.setattr(space, "look", lambda _path: seen)

    def failing(_fd: int, _data: bytes) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", failing)
    store.check()
    state = store.state
    assert (state.accepting, state.avail_bytes, state.size_bytes, state.files_avail) == (False, 7, 9, 3)


def test_a_look_that_gets_no_answer_makes_the_store_unavailable_until_it_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    told: list[str] = []
    store.set_callbacks(on_refusal=told.append, on_unreadable=lambda _error: None)
    answer = threading.Event()
    look = space.look

    def hanging(path: str) -> space.Space:
        answer.wait()
        return look(path)

    monkeypatch.setattr(space, "look", hanging)
    monkeypatch.setattr(filesystem, "_CHECK_TIMEOUT", 0.05)
    checking = threading.Thread(target=store.check)
    checking.start()
    try:
        store.notice_hanging()
        wait_until(lambda: (store.notice_hanging(), not store.state.accepting)[1], TIMEOUT)
        assert store.state.reason == "Storage does not answer"
        assert told == ["Storage does not answer"]
        with pytest.raises(StoreUnavailable):
            store.open(identity())
    finally:
        answer.set()
        checking.join()
    assert not store.state.accepting  # the result of a check that had hung says nothing about the time since
    store.notice_hanging()
    store.check()
    assert store.state.accepting
    put(store, data_set())
    assert told == ["Storage does not answer"]


def test_a_small_write_is_tried_now_and_then_while_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    written: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (written.append(len(data)), write(fd, data))[1])
    for _ in range(3):
        store.check()
    assert written == [4096]
    let_time_pass(monkeypatch)
    store.check()
    assert written == [4096] * 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small mounted ext4 in a file."""
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    for command in (["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop", image, point]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no ext4 on a loop device here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", "-l", point], check=True)


@pytest.mark.root
def test_a_disk_that_hangs_without_an_error_is_noticed_and_comes_back(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen file system answers reads, and blocks writes."""
    store = file_store(disk / "root")
    put(store, data_set("1.1"), identity("1.1"))
    monkeypatch.setattr(filesystem, "_PROBE_TIMEOUT", 0.05)
    outcomes: list[StoreError | str] = []

    def send() -> None:
        try:
            outcomes.append(put(store, data_set()).duplicate)
        except StoreError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=send), threading.Thread(target=store.check)]
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: (store.notice_hanging(), not store.state.accepting)[1], TIMEOUT)
        assert outcomes == []
        with pytest.raises(StoreUnavailable, match="answer"):
            store.open(identity())
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)
        for thread in threads:
            thread.join()
    assert outcomes == [""]  # late but correct
    wait_until(lambda: (store.check(), store.state.accepting)[1], TIMEOUT)
    put(store, data_set("1.2"), identity("1.2"))
    store.close()
