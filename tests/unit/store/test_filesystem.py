"""The file store: what it writes, checks and refuses."""

import os
import random
import stat
import threading
from itertools import accumulate, pairwise
from pathlib import Path

import pydicom
import pytest

from dicomd.layouts import LayoutError
from dicomd.store.errors import (
    DataSetMismatch,
    DataSetUnreadable,
    LayoutElementInvalid,
    ObjectTooLarge,
    OutOfSpace,
    StoreError,
    StoreUnavailable,
)
from dicomd.store.part10 import header
from tests.unit.store.instances import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    SERIES,
    STUDY,
    assert_summed,
    data_set,
    element,
    file_store,
    files,
    folders,
    head,
    identity,
    put,
)

PLACE = f"{STUDY}/{SERIES}/{INSTANCE}.dcm"


@pytest.mark.parametrize("durability", ["fsync", "none"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_an_instance_is_stored_byte_for_byte_under_its_layout(tmp_path: Path, syntax: str, durability: str) -> None:
    store = file_store(tmp_path, durability=durability)
    data = data_set(pixels=bytes(range(256)) * 100, syntax=syntax)
    stored = put(store, data, identity(syntax=syntax), cuts=(10, 11, 5000))
    assert stored.path == tmp_path / PLACE
    assert (stored.duplicate, stored.size) == ("", len(data))
    assert (stored.sync_seconds > 0) == (durability == "fsync")
    assert stored.path.read_bytes() == header(identity(syntax=syntax)) + data
    assert pydicom.dcmread(stored.path).SOPInstanceUID == INSTANCE
    assert files(tmp_path) == [PLACE]


def test_files_and_folders_have_their_modes(tmp_path: Path) -> None:
    stored = put(file_store(tmp_path / "new" / "root"), data_set())
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o640
    for folder in (stored.path.parent, stored.path.parent.parent, tmp_path / "new" / "root", tmp_path / "new"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_nothing_is_in_the_store_but_a_temporary_file_before_the_commit(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    writer = store.open(identity())
    assert files(tmp_path) == []
    data = memoryview(data_set())
    writer.write([data], len(data))
    (temporary,) = files(tmp_path)
    assert temporary.startswith(".dicomd/tmp/")
    writer.commit()
    assert PLACE in files(tmp_path)
    writer.release()
    writer.release()
    writer.discard()
    assert files(tmp_path) == [PLACE]


def test_a_discarded_instance_leaves_nothing(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    for sent in (b"", head()[:20], data_set()):
        writer = store.open(identity())
        writer.write([memoryview(sent)], len(sent))
        writer.discard()
        writer.discard()
    assert files(tmp_path) == []
    assert folders(tmp_path) == []


def test_views_need_be_valid_during_the_write_only(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    data = data_set(pixels=bytes(range(256)) * 10)
    buffer = bytearray(100)
    writer = store.open(identity())
    for at in range(0, len(data), 100):
        chunk = data[at : at + 100]
        buffer[: len(chunk)] = chunk
        writer.write([memoryview(buffer)[: len(chunk)]], len(chunk))
        buffer[:] = b"\xee" * 100
    stored = writer.commit()
    writer.release()
    assert stored.path.read_bytes().endswith(data)


@pytest.mark.parametrize("sizes", [[65536], [65537], [300_000, 3, 200_000], [40_000] * 5, [0, 65536, 0, 65536]])
def test_no_write_is_longer_or_goes_further_than_what_the_kernel_does_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    written: list[int] = []

    def writev(fd: int, fragments: list[memoryview]) -> int:
        written.append(sum(map(len, fragments)))
        return original(fd, fragments)

    original = os.writev
    monkeypatch.setattr("os.writev", writev)
    store = file_store(tmp_path)
    data = data_set() + random.Random(3).randbytes(sum(sizes))
    writer = store.open(identity())
    writer.write([memoryview(data_set())], len(data_set()))
    at = len(data_set())
    fragments: list[memoryview] = []
    for size in sizes:
        fragments.append(memoryview(data)[at : at + size])
        at += size
    writer.write(fragments, sum(sizes))
    stored = writer.commit()
    writer.release()
    ends = list(accumulate(written))
    assert max(written) <= 65536
    assert all(end % 65536 == 32768 for end in ends[1:-1])
    assert all((start + 32768) // 65536 == (end - 1 + 32768) // 65536 for start, end in pairwise([0, *ends]))
    assert stored.path.read_bytes() == header(identity()) + data
    assert_summed(store, stored)


def test_more_fragments_than_the_kernel_takes_at_once(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    data = data_set(pixels=bytes(range(250)) * 40)
    view = memoryview(data)
    fragments = [view[at : at + 3] for at in range(0, len(data), 3)]
    fragments.insert(5, memoryview(b""))
    assert len(fragments) > 3 * 1024
    writer = store.open(identity())
    writer.write(fragments, len(data))
    stored = writer.commit()
    writer.release()
    assert stored.path.read_bytes() == header(identity()) + data
    assert_summed(store, stored)


def test_a_large_object_is_written_whole(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    pixels = bytes(range(256)) * 4096
    writer = store.open(identity())
    data = head() + element(0x7FE00010, "OW", b"", length=20 * len(pixels))
    writer.write([memoryview(data)], len(data))
    for _ in range(20):
        writer.write([memoryview(pixels)], len(pixels))
    stored = writer.commit()
    writer.release()
    assert stored.size == len(data) + 20 * len(pixels)
    assert stored.path.read_bytes() == header(identity()) + data + 20 * pixels


def refused(store_root: Path, data: bytes, kind: type[StoreError], **settings: object) -> StoreError:
    store = file_store(store_root, **settings)
    with pytest.raises(kind) as caught:
        put(store, data)
    assert files(store_root) == []
    assert folders(store_root) == []
    assert store.state.accepting
    assert len(caught.value.message) <= 64
    put(store, data_set("9.9"), identity("9.9"))  # the next one is not affected
    return caught.value


def test_another_sop_class_than_the_commands_is_a_mismatch(tmp_path: Path) -> None:
    error = refused(tmp_path, data_set(sop_class="1.2.840.10008.5.1.4.1.1.4"), DataSetMismatch)
    assert error.element == 0x00080016


@pytest.mark.parametrize("instance", ["1.2.3.4.6", "1.2.3.4.5.1", "1.2.3.4.5\\1.2.3.4.5", "x"])
def test_another_sop_instance_than_the_commands_is_a_mismatch(tmp_path: Path, instance: str) -> None:
    assert refused(tmp_path, data_set(instance), DataSetMismatch).element == 0x00080018


def test_a_mismatch_is_told_while_the_object_is_still_coming(tmp_path: Path) -> None:
    writer = file_store(tmp_path).open(identity())
    data = memoryview(head("1.2.3", study=None, series=None))
    with pytest.raises(DataSetMismatch):
        writer.write([data], len(data))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "layout", ["{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm", "{SOPInstanceUID}.dcm"]
)
@pytest.mark.parametrize(
    ("data", "element_at_fault"),
    [
        (b"", None),
        (head(sop_class=None), 0x00080016),
        (head(instance=None), 0x00080018),
        (element(0x00080016, "UI", "") + head(sop_class=None), 0x00080016),
        (head(instance=None) + element(0x00080018, "UI", b"\0\0"), 0x00080018),
        (element(0x00280010, "US", b"\1\0"), 0x00080016),
    ],
)
def test_a_data_set_that_does_not_name_itself_is_refused(
    tmp_path: Path, layout: str, data: bytes, element_at_fault: int | None
) -> None:
    """Nobody could tell whether it is the instance of the command, even where the path needs nothing of it."""
    assert refused(tmp_path, data, DataSetUnreadable, layout=layout).element == element_at_fault


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_uids_are_found_behind_elements_that_come_too_early(tmp_path: Path, syntax: str) -> None:
    early = element(0x00280010, "US", b"\1\0", syntax)
    store = file_store(tmp_path, layout="{SOPInstanceUID}.dcm")
    with pytest.raises(DataSetMismatch):
        put(store, early + head(instance="1.2.9", syntax=syntax), identity(syntax=syntax))
    assert files(tmp_path) == []
    assert put(store, early + head(syntax=syntax), identity(syntax=syntax)).path == tmp_path / f"{INSTANCE}.dcm"


@pytest.mark.parametrize("uid", [None, "", "..", "../../etc", "1.2/3", "1.2\\1.3", "1." + "2" * 63, "x", "1..2"])
@pytest.mark.parametrize(("name", "tag"), [("study", 0x0020000D), ("series", 0x0020000E)])
def test_a_uid_that_the_layout_needs_must_be_one(tmp_path: Path, name: str, tag: int, uid: str | None) -> None:
    uids = {"study": STUDY, "series": SERIES, name: uid}
    data = data_set(study=uids["study"], series=uids["series"])
    assert refused(tmp_path, data, LayoutElementInvalid).element == tag


def test_a_uid_that_the_layout_does_not_need_may_be_anything(tmp_path: Path) -> None:
    store = file_store(tmp_path, layout="{SOPInstanceUID}.dcm")
    assert put(store, data_set(study="../x", series=None)).path == tmp_path / f"{INSTANCE}.dcm"


@pytest.mark.parametrize("uid", ["../../x", "1/2", "é", "."])
def test_the_commands_uid_is_checked_once_more_before_it_becomes_a_path(tmp_path: Path, uid: str) -> None:
    store = file_store(tmp_path)
    with pytest.raises(LayoutElementInvalid):
        put(store, head(instance=uid), identity(uid))
    assert files(tmp_path) == []


def test_padded_uids_are_equal_to_the_commands_and_make_clean_paths(tmp_path: Path) -> None:
    data = element(0x00080016, "UI", CT_IMAGE_STORAGE.encode() + b" ") + element(0x00080018, "UI", b"1.2.3.4.5\0")
    data += element(0x0020000D, "UI", b"1.2.3 \0\0") + element(0x0020000E, "UI", b"1.2.3.4 ")
    assert put(file_store(tmp_path), data).path == tmp_path / PLACE


@pytest.mark.parametrize("size", [64, 68, 128, 1024])
def test_a_uid_in_a_padded_field_is_that_uid(tmp_path: Path, size: int) -> None:
    """Some senders copy a whole buffer, padded with NULs."""
    uids = {0x00080016: CT_IMAGE_STORAGE, 0x00080018: INSTANCE, 0x0020000D: STUDY, 0x0020000E: SERIES}
    data = b"".join(element(tag, "UI", uid.encode().ljust(size, b"\0")) for tag, uid in uids.items())
    assert put(file_store(tmp_path), data).path == tmp_path / PLACE


@pytest.mark.parametrize(("syntax", "sent"), [(EXPLICIT, BIG_ENDIAN), (BIG_ENDIAN, EXPLICIT), (IMPLICIT, BIG_ENDIAN)])
@pytest.mark.parametrize("layout", ["{StudyInstanceUID}/{SOPInstanceUID}.dcm", "{SOPInstanceUID}.dcm"])
def test_another_byte_order_is_called_so(tmp_path: Path, layout: str, syntax: str, sent: str) -> None:
    with pytest.raises(DataSetUnreadable, match="byte order"):
        put(file_store(tmp_path, layout=layout), data_set(syntax=sent), identity(syntax=syntax))
    assert files(tmp_path) == []


@pytest.mark.parametrize("data", [head()[:30], b"\0" * 100, head(study=None, series=None) + b"\1"])
def test_an_unreadable_data_set_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data, DataSetUnreadable)


def test_an_object_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path) -> None:
    data = data_set(pixels=bytes(1000))
    put(file_store(tmp_path / "a", max_object_size=len(data)), data)
    refused(tmp_path / "b", data, ObjectTooLarge, max_object_size=len(data) - 1)


def test_a_store_takes_nothing_before_its_start(tmp_path: Path) -> None:
    store = file_store(tmp_path / "root", start=False)
    assert not store.state.accepting
    with pytest.raises(StoreUnavailable):
        store.open(identity())
    assert not (tmp_path / "root").exists()
    store.start()
    assert store.state.accepting
    assert store.state.avail_bytes > 0
    assert store.state.size_bytes > store.state.avail_bytes
    assert store.state.reason == ""


def test_a_store_below_its_reserve_refuses_with_out_of_space(tmp_path: Path) -> None:
    store = file_store(tmp_path, reserve_free=1 << 60)
    assert not store.state.accepting
    assert "reserve" in store.state.reason
    with pytest.raises(OutOfSpace):
        store.open(identity())
    store.check()
    assert not store.state.accepting


def test_a_bad_layout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LayoutError):
        file_store(tmp_path, layout="../{SOPInstanceUID}.dcm")


def test_a_store_can_be_opened_again_and_keeps_its_sentinel(tmp_path: Path) -> None:
    first = file_store(tmp_path)
    put(first, data_set())
    sentinel = (tmp_path / ".dicomd" / "store").read_bytes()
    first.close()
    second = file_store(tmp_path)
    assert (tmp_path / ".dicomd" / "store").read_bytes() == sentinel
    assert put(second, data_set()).duplicate == "identical"
    second.close()
    assert list((tmp_path / ".dicomd" / "locks").iterdir()) == []


def test_a_vanished_sentinel_makes_the_store_unavailable_until_it_is_back(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    (tmp_path / ".dicomd").rename(tmp_path / "elsewhere")
    store.check()
    assert not store.state.accepting
    assert "mounted" in store.state.reason
    with pytest.raises(StoreUnavailable):
        store.open(identity())
    assert not (tmp_path / ".dicomd").exists()  # nothing is created in place of a missing mount
    (tmp_path / "elsewhere").rename(tmp_path / ".dicomd")
    store.check()
    assert store.state.accepting
    put(store, data_set())


def test_another_stores_sentinel_makes_the_store_unavailable(tmp_path: Path) -> None:
    store = file_store(tmp_path / "a")
    file_store(tmp_path / "b").close()
    (tmp_path / "a" / ".dicomd" / "store").write_bytes((tmp_path / "b" / ".dicomd" / "store").read_bytes())
    store.check()
    assert not store.state.accepting


def test_a_mount_that_vanishes_between_two_checks_fails_the_instance(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    (tmp_path / ".dicomd").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable) as caught:
        put(store, data_set())
    assert (caught.value.operation, caught.value.errno) == ("open", "ENOENT")
    assert not store.state.accepting
    assert not (tmp_path / ".dicomd").exists()
    assert not (tmp_path / STUDY).exists()


def test_many_threads_store_side_by_side(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    failures: list[BaseException] = []

    def send(thread: int) -> None:
        try:
            for number in range(20):
                uid = f"1.{thread}.{number}"
                put(store, data_set(uid, study=f"2.{number % 3}", series=f"3.{thread % 2}"), identity(uid))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(files(tmp_path)) == 120
    assert all(path.endswith(".dcm") for path in files(tmp_path))
