"""Failures, caused by real means if possible: the right error, nothing left, and the next instance is stored."""

import errno
import fcntl
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dicomd.store import space
from dicomd.store.errors import (
    OutOfResources,
    OutOfSpace,
    StoreError,
    StoreUnavailable,
    from_oserror,
)
from dicomd.store.filesystem import FileStore
from tests.unit.store.instances import (
    INSTANCE,
    SERIES,
    STUDY,
    assert_summed,
    data_set,
    file_store,
    files,
    folders,
    identity,
    open_descriptors,
    path_of,
    put,
)

PLACE = f"{STUDY}/{SERIES}/{INSTANCE}.dcm"
NOBODY = 65534
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a tmpfs with the given options and return its path."""
    target = tmp_path / "mounted"
    target.mkdir()

    def mount_tmpfs(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "dicomd-test", target], check=True)
        return target

    yield mount_tmpfs
    if target.is_mount():
        subprocess.run(["umount", "-l", target], check=True)  # the stores under test still have files open there


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A temporary folder that users other than root can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def limit(kind: int, soft: int) -> Iterator[None]:
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


def fails(store: FileStore, data: bytes, kind: type[StoreError], uid: str = INSTANCE) -> StoreError:
    with pytest.raises(kind) as caught:
        put(store, data, identity(uid))
    assert type(caught.value) is kind
    assert len(caught.value.message) <= 64
    return caught.value


@pytest.mark.root
@pytest.mark.parametrize("durability", ["fsync", "none"])
def test_a_full_file_system_is_out_of_space_and_leaves_nothing_behind(mount: Mount, durability: str) -> None:
    root = mount("size=1m,nr_inodes=1000")
    store = file_store(root, durability=durability)
    put(store, data_set("1.1"), identity("1.1"))
    error = fails(store, data_set(pixels=bytes(2 << 20)), OutOfSpace)
    assert (error.operation, error.errno) == ("write", "ENOSPC")
    assert [Path(path).name for path in files(root)] == ["1.1.dcm"]
    assert store.state.accepting
    assert put(store, data_set()).path == root / PLACE  # smaller ones still fit


@pytest.mark.root
def test_a_filled_up_file_system_takes_instances_again_once_it_is_emptied(mount: Mount) -> None:
    root = mount("size=1m,nr_inodes=1000")
    store = file_store(root, reserve_free=256 << 10)
    assert store.state.accepting
    ballast = root / "ballast"
    ballast.write_bytes(bytes(900 << 10))
    store.check()
    assert not store.state.accepting
    assert store.state.avail_bytes < 256 << 10
    fails(store, data_set(), OutOfSpace)
    ballast.write_bytes(bytes(760 << 10))  # above the reserve, but not 1.1 times
    store.check()
    assert 256 << 10 <= store.state.avail_bytes < (256 << 10) * 1.1
    assert not store.state.accepting
    ballast.unlink()
    store.check()
    assert store.state.accepting
    put(store, data_set())


@pytest.mark.root
def test_a_lack_of_inodes_is_out_of_space(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mount("size=4m,nr_inodes=200")
    store = file_store(root, checksums=False)  # tmpfs counts an extended attribute as an inode
    room = store._room  # noqa: SLF001 - as if others had used the inodes since the last check
    monkeypatch.setattr(room, "claim", lambda size, _end: (0, size))
    ballast = root / "ballast"
    ballast.mkdir()
    made = 0
    with suppress(OSError):  # until it is full
        while True:
            (ballast / str(made)).touch()
            made += 1
    error = fails(store, data_set(), OutOfSpace)
    assert (error.operation, error.errno) == ("open", "ENOSPC")
    store.check()
    assert not store.state.accepting
    assert "inodes" in store.state.reason
    for name in ("0", "1"):  # for the check, which makes a file and a second name of it
        (ballast / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(space, "look", lambda _path: space.Space(1 << 40, 1 << 40, files_avail=1 << 20, files=1 << 20))
        store.check()
    assert store.state.accepting
    (ballast / "1").touch()  # since the check; one inode is left for the temporary file, and none for the folders
    assert fails(store, data_set(), OutOfSpace).operation == "mkdir"
    assert [path for path in files(root) if not path.startswith("ballast")] == []
    assert folders(root) == ["ballast"]
    for number in range(1, made):
        (ballast / str(number)).unlink()
    store.check()
    assert store.state.accepting
    put(store, data_set())


@pytest.mark.root
def test_a_start_on_a_full_file_system_waits_for_space(mount: Mount) -> None:
    root = mount("size=1m,nr_inodes=1000")
    file_store(root).close()
    (root / "ballast").write_bytes(bytes(900 << 10))
    with (root / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):  # until it is full
        while True:
            ballast.write(bytes(4096))
    store = file_store(root)
    assert not store.state.accepting
    fails(store, data_set(), OutOfSpace)
    (root / "ballast").unlink()
    store.check()
    assert store.state.accepting
    put(store, data_set())


@pytest.mark.root
def test_a_store_that_becomes_read_only_is_unavailable_until_it_is_writable_again(mount: Mount) -> None:
    root = mount("size=1m,nr_inodes=1000")
    store = file_store(root)
    put(store, data_set("1.1"), identity("1.1"))
    store.close()  # a lock held open for writing would keep the mount from being remounted
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    error = fails(store, data_set(), StoreUnavailable)
    assert (error.operation, error.errno) == ("open", "EROFS")
    assert not store.state.accepting
    assert store.state.reason == "Storage is read-only"
    store.check()
    assert not store.state.accepting
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    store.check()
    assert store.state.accepting
    put(store, data_set())
    store.close()


@pytest.mark.root
def test_an_unmounted_store_is_unavailable_and_nothing_is_put_in_its_place(mount: Mount) -> None:
    root = mount("size=1m,nr_inodes=1000")
    store = file_store(root)
    data = memoryview(data_set())
    writer = store.open(identity())
    writer.write([data], len(data))
    subprocess.run(["umount", "-l", root], check=True)
    with pytest.raises(StoreUnavailable):
        writer.commit()
    assert not store.state.accepting
    store.check()
    assert not store.state.accepting
    fails(store, data_set(), StoreUnavailable)
    assert list(root.iterdir()) == []
    store.close()


def test_an_object_beyond_the_file_size_limit_is_out_of_space(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    with limit(resource.RLIMIT_FSIZE, 100_000):
        error = fails(store, data_set(pixels=bytes(200_000)), OutOfSpace)
    assert (error.operation, error.errno) == ("write", "EFBIG")
    assert files(tmp_path) == []
    assert folders(tmp_path) == []
    put(store, data_set(pixels=bytes(200_000)))


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 4])
def test_a_lack_of_descriptors_is_out_of_resources_and_leaves_nothing_behind(tmp_path: Path, spare: int) -> None:
    store = file_store(tmp_path)
    put(store, data_set("1.1", study="9", series="8"), identity("1.1"))
    used = open_descriptors()
    free = [number for number in range(max(used) + 10) if number not in used]
    with limit(resource.RLIMIT_NOFILE, free[spare]):
        error = fails(store, data_set(), OutOfResources)
    assert error.errno == "EMFILE"
    assert [Path(path).name for path in files(tmp_path)] == ["1.1.dcm"]
    assert folders(tmp_path) == ["9", "9/8"]
    assert store.state.accepting
    put(store, data_set())


@pytest.mark.root
def test_a_root_without_permission_fails_the_start(folder_for_all: Path) -> None:
    (folder_for_all / "root").mkdir(mode=0o755)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(StoreUnavailable) as caught:
            file_store(folder_for_all / "root")
    finally:
        os.seteuid(0)
    assert caught.value.errno == "EACCES"
    assert list((folder_for_all / "root").iterdir()) == []


@pytest.mark.root
def test_a_folder_without_permission_fails_its_instances_alone(folder_for_all: Path) -> None:
    root = folder_for_all / "root"
    root.mkdir()
    os.chown(root, NOBODY, NOBODY)
    (root / "7.7").mkdir(mode=0o755)
    os.seteuid(NOBODY)
    try:
        store = file_store(root)
        error = fails(store, data_set(study="7.7"), StoreUnavailable)
        assert (error.operation, error.errno) == ("mkdir", "EACCES")
        assert store.state.accepting
        put(store, data_set())
        assert files(root) == [PLACE]
    finally:
        os.seteuid(0)


@pytest.mark.root
def test_a_study_on_another_file_system_is_told_apart(tmp_path: Path, mount: Mount) -> None:
    """Whether it is mounted there, or a symbolic link leads to it."""
    elsewhere = mount("size=1m")
    root = tmp_path / "store"
    store = file_store(root)
    (root / STUDY).symlink_to(elsewhere)
    error = fails(store, data_set(), StoreUnavailable)
    assert (error.message, error.errno) == ("Folder of the instance is on another file system", "EXDEV")
    assert error.path == str(root / PLACE)
    assert not any(elsewhere.rglob("*.dcm"))
    assert store.state.accepting
    put(store, data_set("1.1", study="1.9"), identity("1.1"))


def test_a_file_in_the_place_of_a_folder_fails_its_instances_alone(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    (tmp_path / STUDY).write_text("in the way")
    assert fails(store, data_set(), StoreUnavailable).errno == "ENOTDIR"
    assert store.state.accepting
    put(store, data_set(study="1.9"))


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, under: Path, *, times: int = 1) -> list[str]:
    """Make a function of the os module fail for files and folders of the store, `times` times."""
    original = getattr(os, name)
    failed: list[str] = []

    def concerns_the_store(arguments: tuple[Any, ...]) -> bool:
        first = arguments[0]
        path = str(path_of(first)) if isinstance(first, int) else os.fspath(first)
        return path.startswith(str(under)) or not path.startswith("/")

    def fail(*arguments: Any, **options: Any) -> Any:
        if len(failed) < times and concerns_the_store(arguments):
            failed.append(name)
            raise OSError(number, os.strerror(number))
        return original(*arguments, **options)

    monkeypatch.setattr(os, name, fail)
    return failed


CALLS = [
    ("open", "open"),
    ("writev", "write"),
    ("fdatasync", "fsync"),
    ("mkdir", "mkdir"),
    ("link", "link"),
    ("fsync", "fsync"),
    ("stat", "link"),
]
OF_A_PATH = ("mkdir", "link")
"""Operations on the path of an instance, which may fail although the store is working."""
CAUSES = [
    (errno.ENOSPC, OutOfSpace),
    (errno.EDQUOT, OutOfSpace),
    (errno.EIO, StoreUnavailable),
    (errno.EROFS, StoreUnavailable),
    (errno.ENOMEM, OutOfResources),
    (errno.EMFILE, OutOfResources),
]


@pytest.mark.parametrize(("call", "operation"), CALLS)
@pytest.mark.parametrize(("number", "kind"), CAUSES)
def test_every_call_may_fail_with_every_cause(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    operation: str,
    number: int,
    kind: type[StoreError],
) -> None:
    store = file_store(tmp_path)
    put(store, data_set("1.1", study="9", series="8"), identity("1.1"))
    expected = StoreUnavailable if operation == "fsync" else kind
    with monkeypatch.context() as patch:
        failed = failing(patch, call, number, tmp_path)
        error = fails(store, data_set(), expected)
        assert failed == [call]
        assert (error.operation, error.errno) == (operation, errno.errorcode[number])
        assert [Path(path).name for path in files(tmp_path)] == ["1.1.dcm"]
        assert folders(tmp_path) == ["9", "9/8"]
        of_a_path = operation in OF_A_PATH and expected is not OutOfResources
        assert error.path == (str(tmp_path / PLACE) if of_a_path else "")
        harmless = of_a_path or (expected is not StoreUnavailable and error.errno != "EDQUOT")
        assert store.state.accepting == harmless
    store.check()
    assert store.state.accepting
    assert put(store, data_set()).path == tmp_path / PLACE


@pytest.mark.parametrize("which", ["fdatasync", "fsync"])
def test_a_failed_sync_is_never_retried_into_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    store = file_store(tmp_path)
    with monkeypatch.context() as patch:
        failed = failing(patch, which, errno.EIO, tmp_path, times=1)
        assert fails(store, data_set(), StoreUnavailable).message == "Storage could not be synced"
        assert failed == [which]  # once: a second call would have succeeded
    with pytest.raises(StoreUnavailable):
        store.open(identity())
    with monkeypatch.context() as patch:
        failing(patch, "fsync", errno.EIO, tmp_path, times=1000)
        store.check()
        assert not store.state.accepting
    store.check()
    assert store.state.accepting


def test_a_failed_sync_of_a_parent_takes_the_name_back_and_the_next_one_syncs_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    fsync = os.fsync
    synced: list[str] = []
    failures = [errno.EIO]

    def fail_for_the_root(fd: int) -> None:
        synced.append(str(path_of(fd).relative_to(tmp_path)))
        if synced[-1] == "." and failures:
            failures.clear()
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail_for_the_root)
    fails(store, data_set(), StoreUnavailable)
    assert files(tmp_path) == []
    assert folders(tmp_path) == []
    store.check()
    synced.clear()
    put(store, data_set())
    assert synced == [f"{STUDY}/{SERIES}", STUDY, "."]


def test_a_failed_sync_does_not_take_away_what_another_has_put_in_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    fsync = os.fsync

    def replace_and_fail(fd: int) -> None:
        if path_of(fd).name == SERIES:
            (tmp_path / PLACE).unlink()
            (tmp_path / PLACE).write_text("somebody else's")
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", replace_and_fail)
    fails(store, data_set(), StoreUnavailable)
    assert (tmp_path / PLACE).read_text() == "somebody else's"
    assert files(tmp_path) == [PLACE]


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path, duplicates="replace")
    before = put(store, data_set()).path.read_bytes()
    with monkeypatch.context() as patch:
        failing(patch, "rename", errno.EIO, tmp_path)
        fails(store, data_set(pixels=b"new!"), StoreUnavailable)
    assert (tmp_path / PLACE).read_bytes() == before
    assert files(tmp_path) == [PLACE]


def test_a_replacement_that_could_not_be_synced_is_refused_and_stays_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename has removed the old file; removing the new one as well would leave nothing."""
    store = file_store(tmp_path, duplicates="replace")
    before = put(store, data_set()).path.read_bytes()
    with monkeypatch.context() as patch:
        failing(patch, "fsync", errno.EIO, tmp_path, times=1)
        fails(store, data_set(pixels=b"new!"), StoreUnavailable)
    assert (tmp_path / PLACE).read_bytes() == before[:-4] + b"new!"
    assert files(tmp_path) == [PLACE]
    store.check()
    assert put(store, data_set(pixels=b"new!")).duplicate == "identical"


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    writev = os.writev

    def short(fd: int, buffers: list[Any]) -> int:
        first = next((memoryview(buffer) for buffer in buffers if len(buffer)), memoryview(b""))
        return writev(fd, [first[:7]])

    monkeypatch.setattr(os, "writev", short)
    data = data_set(pixels=bytes(range(256)))
    stored = put(store, data, cuts=(3, 3, 20, 21))
    assert stored.path.read_bytes().endswith(data)
    assert_summed(store, stored)


def test_a_lock_that_can_not_be_given_up_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance is durable by then: if it were refused, it would stay as a file that no sender knows of."""
    flock = fcntl.flock

    def fail(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", fail)
    store = file_store(tmp_path)
    assert put(store, data_set()).path == tmp_path / PLACE
    assert put(store, data_set()).duplicate == "identical"


def test_release_and_discard_never_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    for ending in ("release", "discard"):
        writer = store.open(identity())
        data = memoryview(data_set())
        writer.write([data], len(data))
        with monkeypatch.context() as patch:
            failing(patch, "unlink", errno.EIO, tmp_path)
            getattr(writer, ending)()


def test_a_file_system_without_hard_links_fails_the_start_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
        with monkeypatch.context() as patch:
            failing(patch, "link", number, tmp_path, times=10)
            with pytest.raises(StoreUnavailable, match="hard links"):
                file_store(tmp_path)
        assert files(tmp_path) == []


def test_a_file_system_that_loses_its_hard_links_makes_the_store_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, "link", errno.EINVAL, tmp_path, times=10)
        fails(store, data_set(), StoreUnavailable)
        store.check()
        assert store.state.reason == "Store needs a file system with hard links"
        assert not store.state.accepting
    store.check()
    assert put(store, data_set()).path == tmp_path / PLACE


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.ENOSPC, errno.E2BIG])
def test_an_instance_without_checksum_is_better_than_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "setxattr", number, tmp_path, times=1000)
        store = file_store(tmp_path)
        assert (store.checksums, store.no_checksums) == (False, errno.errorcode[number])
        put(store, data_set())
    store._next_probe = 0.0  # noqa: SLF001 - as if ten seconds had passed
    store.check()
    assert store.no_checksums == ""
    assert_summed(store, put(store, data_set("1.1"), identity("1.1")))


def test_checksums_that_can_no_longer_be_recorded_cost_one_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = file_store(tmp_path)
    if not store.checksums:
        pytest.skip(f"no extended attributes here: {store.no_checksums}")
    failing(monkeypatch, "setxattr", errno.EINVAL, tmp_path, times=1000)
    assert fails(store, data_set(), StoreUnavailable).operation == "setxattr"
    store.check()
    put(store, data_set())


def test_a_known_store_behind_a_symbolic_link_that_leads_nowhere_is_waited_for(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "mounted"
    link.symlink_to(target)
    target.mkdir()
    known = file_store(link).name
    target.rename(tmp_path / "unmounted")
    store = file_store(link, start=False)
    store.start(known)
    assert (store.state.accepting, target.exists()) == (False, False)
    (tmp_path / "unmounted").rename(target)
    store.check()
    assert put(store, data_set()).path == link / PLACE


@pytest.mark.parametrize("below", ["", "/below/it"])
def test_a_symbolic_link_that_leads_nowhere_fails_the_start(tmp_path: Path, below: str) -> None:
    link, target = tmp_path / "link", tmp_path / "not" / "mounted"
    link.symlink_to(target)
    with pytest.raises(StoreUnavailable) as caught:
        file_store(Path(f"{link}{below}"))
    cause = caught.value.__cause__
    assert isinstance(cause, FileNotFoundError)
    assert (cause.filename, cause.filename2) == (str(link), str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    target.mkdir(parents=True)
    store = file_store(Path(f"{link}{below}"))
    put(store, data_set())
    assert files(Path(f"{target}{below}")) == [PLACE]


def test_a_lack_of_descriptors_during_a_check_says_nothing_about_the_store(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    with limit(resource.RLIMIT_NOFILE, 3):
        store.check()
    assert store.state.accepting


def test_an_unknown_errno_is_unavailable() -> None:
    error = from_oserror(OSError("no number"), "link")
    assert (type(error), error.errno, error.operation) == (StoreUnavailable, "", "link")


def test_a_removed_directory_can_still_be_opened_through_its_descriptor(tmp_path: Path) -> None:
    """Publishing relies on this: for a cached directory that was removed, only the link fails, nothing before."""
    (tmp_path / "gone").mkdir()
    fd = os.open(tmp_path / "gone", os.O_RDONLY)
    (tmp_path / "gone").rmdir()
    os.close(os.open(".", os.O_RDONLY, dir_fd=fd))
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        os.link(tmp_path / "file", "name", dst_dir_fd=fd)
    os.close(fd)


SLOW = pytest.mark.slow  # with all cases together
WATCHED = ("open", "writev", "fdatasync", "mkdir", "link", "rename", "fsync", "stat", "fstat", "pread")


@pytest.mark.parametrize(
    "number", [errno.EIO, *(pytest.param(number, marks=SLOW) for number in (errno.ENOSPC, errno.EMFILE, errno.EPERM))]
)
@pytest.mark.parametrize(
    ("case", "series"),
    [
        *((case, SERIES) for case in ("new", "new-in-pieces", "identical", "kept-both", "replaced")),
        *(pytest.param(case, None, marks=SLOW) for case in ("new", "identical", "kept-both")),
    ],
)
def test_whichever_call_fails_the_store_holds_complete_instances_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, series: str | None, number: int
) -> None:
    """Fail the first call of one store, then the second, and so on, until a store succeeds.

    An instance without a series is kept unfiled.
    """
    place = f"unfiled/{INSTANCE}.dcm" if series is None else PLACE
    case, _, pieces = case.partition("-in-")
    pixels = b"\1\2\3\4" if case in ("new", "identical") else b"\5\6\7\10"
    if pieces:
        pixels *= 50_000
    originals = {name: getattr(os, name) for name in WATCHED}
    calls = 0
    failing_call = 0

    def watched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing_call:
                raise OSError(number, os.strerror(number))
            return originals[name](*arguments, **options)

        return call

    for failing_call in range(1, 60):
        root = tmp_path / str(failing_call)
        store = file_store(root, duplicates="replace" if case == "replaced" else "keep-both", unfiled="keep")
        before = {} if case == "new" else {place: put(store, data_set(series=series)).path.read_bytes()}
        descriptors = len(open_descriptors())
        calls = 0
        outcome = "stored"
        with monkeypatch.context() as patch:
            for name in WATCHED:
                patch.setattr(os, name, watched(name))
            try:
                put(store, data_set(pixels=pixels, series=series))
            except StoreError:
                outcome = "failed"
        after = {path: (root / path).read_bytes() for path in files(root)}
        store.check()
        assert store.state.accepting
        if outcome == "failed":
            assert calls >= failing_call
            complete = {place: next(iter(before.values()))[:-4] + pixels} if case == "replaced" else before
            assert after in (before, complete)
            made = {STUDY, f"{STUDY}/{SERIES}"} if series else {"unfiled"}
            assert folders(root) == (sorted(made) if before else [])
        elif calls < failing_call:
            assert failing_call > 10  # otherwise the wrong calls were watched
            return
        assert len(open_descriptors()) <= descriptors + 1  # one for a cached directory
        expected = {"new": "identical"} if outcome == "stored" else {"new": ""}
        assert put(store, data_set(pixels=pixels, series=series)).duplicate in (expected.get(case), "identical", case)
    pytest.fail("storing an instance took more calls than it should")


def test_a_writer_that_fails_during_a_check_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    statvfs = os.statvfs

    def fail_meanwhile(path: str) -> os.statvfs_result:
        store._condition.instance_failed(StoreUnavailable("Storage has an I/O error", operation="write", errno="EIO"))  # noqa: SLF001 - as a writer reports it
        return statvfs(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", fail_meanwhile)
        store.check()
    assert not store.state.accepting
    store.check()
    assert store.state.accepting
