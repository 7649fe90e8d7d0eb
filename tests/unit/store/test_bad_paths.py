"""A failure of one path of the store affects only that path: others are stored, and the store stays ready."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomd.store.errors import DuplicateRejected, OutOfResources, OutOfSpace, StoreError, StoreUnavailable
from tests.unit.store.instances import INSTANCE, SERIES, STUDY, data_set, file_store, files, folders, identity, put
from tests.unit.store.instances import path_of as path_of_descriptor

PLACE = f"{STUDY}/{SERIES}/{INSTANCE}.dcm"
BESIDE = f"{STUDY}/{SERIES}/{INSTANCE}_1.dcm"
DAMAGE = [
    errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.ESTALE, errno.EREMOTEIO, errno.EACCES, errno.EPERM,
    errno.ELOOP, errno.ETIMEDOUT, errno.ENOTCONN, errno.EINVAL, errno.EOVERFLOW,
]  # fmt: skip
OF_A_FOLDER = [*DAMAGE, errno.EXDEV, errno.EMLINK, errno.ENAMETOOLONG, errno.EROFS, errno.ENODEV, errno.ENOTDIR]

Damage = Callable[[str, int, Path], list[str]]


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Damage]:
    """Make a call fail whenever it concerns this file or folder, as over a bad sector: `damage("pread", EIO, path)`."""

    def fail(call: str, number: int, path: Path) -> list[str]:
        module = fcntl if call == "flock" else os
        original = getattr(module, call)
        met: list[str] = []

        def concerned(arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
            if call == "link":
                return "dst_dir_fd" in options and path_of_descriptor(options["dst_dir_fd"]) == path
            if isinstance(arguments[0], int):
                return path_of_descriptor(arguments[0]) == path
            folder = path_of_descriptor(options["dir_fd"]) if options.get("dir_fd") is not None else Path("/")
            return folder / os.fspath(arguments[0]) == path

        def failing(*arguments: Any, **options: Any) -> Any:
            if concerned(arguments, options):
                met.append(call)
                raise OSError(number, os.strerror(number))
            return original(*arguments, **options)

        monkeypatch.setattr(module, call, failing)
        return met

    yield fail
    monkeypatch.undo()


class Unreadable:
    """A store with one instance in it, and a record of what it has reported about unreadable files."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.store = file_store(root, **settings)
        self.told: list[StoreError] = []
        self.suspended: list[str] = []
        self.store.set_callbacks(on_refusal=self.suspended.append, on_unreadable=self.told.append)
        self.path = put(self.store, data_set()).path

    def is_well(self) -> bool:
        """Whether the store has not been suspended, before and after a check of it, and stores other instances."""
        for uid in ("2.1", "2.2"):
            if not self.store.state.accepting:
                return False
            put(self.store, data_set(uid), identity(uid))
            self.store.check()
        return self.store.state.accepting and self.suspended == []


@pytest.mark.parametrize("call", ["open", "flock", "pread", "fstat"])
@pytest.mark.parametrize("number", DAMAGE)
def test_an_existing_file_that_cannot_be_read_counts_as_another_data_set(
    tmp_path: Path, damage: Damage, call: str, number: int
) -> None:
    existing = Unreadable(tmp_path)
    met = damage(call, number, existing.path)
    again = put(existing.store, data_set())
    assert (again.path, again.duplicate) == (tmp_path / BESIDE, "kept-both")  # an intact copy
    assert put(existing.store, data_set()).duplicate == "identical"  # one intact copy is enough
    assert met
    operation = {"open": "open", "pread": "read"}.get(call, "lock")
    assert {(each.path, each.operation, each.errno) for each in existing.told} == {
        (str(existing.path), operation, errno.errorcode[number])
    }
    assert existing.is_well()


@pytest.mark.parametrize("call", ["open", "pread"])
def test_an_unreadable_file_is_replaced_by_a_good_one(tmp_path: Path, damage: Damage, call: str) -> None:
    existing = Unreadable(tmp_path, duplicates="replace")
    before = existing.path.read_bytes()
    damaged = existing.path.stat().st_ino
    damage(call, errno.EIO, existing.path)
    assert put(existing.store, data_set()).duplicate == "replaced"
    assert files(tmp_path) == [PLACE]
    assert existing.path.stat().st_ino != damaged
    with existing.path.open("rb", buffering=0) as file:
        assert file.read() == before
    assert existing.is_well()


def test_a_file_that_cannot_be_locked_is_not_replaced(tmp_path: Path, damage: Damage) -> None:
    """Another process may just be publishing it, and would then take back whatever has its name."""
    existing = Unreadable(tmp_path, duplicates="replace")
    before = existing.path.read_bytes()
    damage("flock", errno.ENOLCK, existing.path)
    with pytest.raises(StoreUnavailable) as caught:
        put(existing.store, data_set(pixels=b"new!"))
    assert (caught.value.operation, caught.value.path) == ("lock", str(existing.path))
    assert existing.path.read_bytes() == before
    assert existing.is_well()


@pytest.mark.parametrize("call", ["open", "flock", "pread"])
def test_reject_takes_an_unreadable_file_for_another_data_set(tmp_path: Path, damage: Damage, call: str) -> None:
    existing = Unreadable(tmp_path, duplicates="reject")
    damage(call, errno.EIO, existing.path)
    with pytest.raises(DuplicateRejected):
        put(existing.store, data_set())
    assert files(tmp_path) == [PLACE]
    assert existing.told
    assert existing.is_well()


@pytest.mark.parametrize("call", ["open", "flock", "pread"])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_our_own_lack_of_resources_says_nothing_about_an_existing_file(
    tmp_path: Path, damage: Damage, call: str, number: int
) -> None:
    existing = Unreadable(tmp_path)
    damage(call, number, existing.path)
    with pytest.raises(OutOfResources):
        put(existing.store, data_set())
    assert files(tmp_path) == [PLACE]
    assert existing.told == []
    assert existing.is_well()


def test_a_stale_file_that_was_removed_elsewhere_is_no_duplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a descriptor becomes stale if another host removes the file."""
    existing = Unreadable(tmp_path)
    flock = fcntl.flock

    def stale(fd: int, operation: int) -> None:
        if path_of_descriptor(fd) == existing.path:
            existing.path.unlink()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", stale)
    assert put(existing.store, data_set()).duplicate == ""
    assert files(tmp_path) == [PLACE]
    assert existing.told == []


def as_nfs(fd: int, operation: int) -> None:
    """flock(2) on NFS: an exclusive lock needs a descriptor open for writing, a shared one a descriptor for reading."""
    kind = operation & ~fcntl.LOCK_NB
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if (kind == fcntl.LOCK_EX and mode == os.O_RDONLY) or (kind == fcntl.LOCK_SH and mode == os.O_WRONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    _flock(fd, operation)


_flock = fcntl.flock


@pytest.mark.parametrize("duplicates", ["keep-both", "replace", "reject"])
def test_nfs_locks_files_that_are_open_for_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duplicates: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", as_nfs)
    existing = Unreadable(tmp_path, duplicates=duplicates)
    existing.path.chmod(0o440)
    assert put(existing.store, data_set()).duplicate == "identical"
    if duplicates == "reject":
        with pytest.raises(DuplicateRejected):
            put(existing.store, data_set(pixels=b"new!"))
    else:
        kept = put(existing.store, data_set(pixels=b"new!")).duplicate
        assert kept == {"keep-both": "kept-both", "replace": "replaced"}[duplicates]
    assert existing.told == []
    assert existing.is_well()
    existing.store.close()
    assert file_store(tmp_path, duplicates=duplicates).sweep() == 0


def test_nfs_waits_for_who_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared lock can't be acquired while a publisher holds the exclusive one."""
    monkeypatch.setattr(fcntl, "flock", as_nfs)
    monkeypatch.setattr("dicomd.store.duplicates._LOCK_DEADLINE", 0.05)
    existing = Unreadable(tmp_path)
    with existing.path.open("r+b") as publisher:
        _flock(publisher.fileno(), fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="locked") as caught:
            put(existing.store, data_set())
    assert caught.value.path == str(existing.path)
    assert existing.is_well()


def test_a_store_whose_own_files_cannot_be_locked_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_lockd(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_lockd)
    with pytest.raises(StoreUnavailable, match="locks"):
        file_store(tmp_path)


def test_a_store_whose_locks_fail_is_not_ready_until_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    put(store, data_set("1.1"), identity("1.1"))

    def without_lockd(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", without_lockd)
        with pytest.raises(StoreUnavailable, match="locks") as caught:
            put(store, data_set())
        assert caught.value.path == ""
        assert not store.state.accepting
        store.check()
        assert not store.state.accepting
    store.check()
    assert store.state.accepting
    put(store, data_set())


@pytest.mark.parametrize("number", OF_A_FOLDER)
@pytest.mark.parametrize("call", ["open", "mkdir", "link"])
def test_a_folder_that_cannot_be_used_fails_its_instances_alone(
    tmp_path: Path, damage: Damage, call: str, number: int
) -> None:
    existing = Unreadable(tmp_path)
    if call == "link":
        damage(call, number, tmp_path / "7.7" / SERIES)
    else:
        damage(call, number, tmp_path / "7.7")
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as caught:
            put(existing.store, data_set(study="7.7"))
        assert caught.value.path == str(tmp_path / "7.7" / SERIES / f"{INSTANCE}.dcm")
        assert caught.value.errno == errno.errorcode[number]
        assert existing.is_well()
    assert folders(tmp_path) == [STUDY, f"{STUDY}/{SERIES}"]
    assert existing.told == []  # the refusal reports it


@pytest.mark.parametrize("duplicates", ["keep-both", "reject", "replace"])
@pytest.mark.parametrize("number", DAMAGE)
def test_a_folder_in_which_nothing_can_be_looked_up_holds_no_duplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duplicates: str, number: int
) -> None:
    """As if a folder's block is damaged or its x permission is missing: its contents can't be known."""
    existing = Unreadable(tmp_path, duplicates=duplicates)
    put(existing.store, data_set("2.1", study="7.7"), identity("2.1"))
    folder = tmp_path / "7.7" / SERIES

    def failing_in_folder(original: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **options: Any) -> Any:
            fd = options.get("dst_dir_fd", options.get("dir_fd"))
            if fd is not None and arguments[0] != "." and path_of_descriptor(fd) == folder:
                raise OSError(number, os.strerror(number))
            return original(*arguments, **options)

        return failing

    with monkeypatch.context() as patch:
        for call in ("link", "stat", "open", "rename"):
            patch.setattr(os, call, failing_in_folder(getattr(os, call)))
        with pytest.raises(StoreUnavailable) as caught:
            put(existing.store, data_set(study="7.7"))
    assert caught.value.path == str(folder / f"{INSTANCE}.dcm")
    assert caught.value.errno == errno.errorcode[number]
    assert existing.told == []
    assert existing.is_well()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_a_folder_with_a_quota_of_its_own_fails_its_instances_alone(
    tmp_path: Path, damage: Damage, number: int
) -> None:
    existing = Unreadable(tmp_path)
    damage("mkdir", number, tmp_path / "7.7")
    with pytest.raises(OutOfSpace):
        put(existing.store, data_set(study="7.7"))
    assert existing.is_well()


def test_a_known_folder_that_fails_once_is_opened_anew(tmp_path: Path, damage: Damage) -> None:
    existing = Unreadable(tmp_path)
    original = os.link
    met = damage("link", errno.EIO, tmp_path / STUDY / SERIES)
    with pytest.raises(StoreUnavailable):
        put(existing.store, data_set("1.9"), identity("1.9"))
    assert met
    os.link = original
    assert put(existing.store, data_set("1.9"), identity("1.9")).duplicate == ""


def test_a_failure_of_a_path_that_is_the_disks_is_found_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    store.check()  # so that no check is due for ten seconds

    def broken(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", broken)
        with pytest.raises(StoreUnavailable) as caught:
            put(store, data_set())
        assert caught.value.path
        assert store.state.accepting
        store.check()
        assert not store.state.accepting
    store.check()
    assert store.state.accepting
    put(store, data_set())


def test_bad_paths_cost_one_small_write_a_look(tmp_path: Path, damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    existing = Unreadable(tmp_path)
    existing.store.check()
    tried: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (tried.append(len(data)), write(fd, data))[1])
    damage("pread", errno.EIO, existing.path)
    for _ in range(20):
        put(existing.store, data_set())
    assert tried == []
    existing.store.check()
    existing.store.check()
    assert tried == [4096]


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.ESTALE, errno.EACCES])
def test_a_failed_sync_is_the_stores_wherever_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = file_store(tmp_path)

    def broken(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(StoreUnavailable) as caught:
        put(store, data_set())
    assert caught.value.path == ""
    assert not store.state.accepting


def test_a_candidate_that_cannot_be_read_back_is_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file just written and synced can't be read, it would be unreadable under its final name, too."""
    existing = Unreadable(tmp_path)
    pread = os.pread

    def broken(fd: int, length: int, offset: int) -> bytes:
        if ".dicomd" in path_of_descriptor(fd).parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(StoreUnavailable) as caught:
        put(existing.store, data_set())
    assert (caught.value.operation, caught.value.path) == ("read", "")
    assert not existing.store.state.accepting
    assert files(tmp_path) == [PLACE]


def test_a_root_that_cannot_be_opened_is_the_stores(tmp_path: Path, damage: Damage) -> None:
    store = file_store(tmp_path)
    damage("open", errno.EIO, tmp_path)
    with pytest.raises(StoreUnavailable):
        put(store, data_set())
    store.check()
    assert not store.state.accepting
