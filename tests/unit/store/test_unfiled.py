"""Instances that can't be filed: refused, or kept under `unfiled`; never another instance's, and never over another."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomd.statuses import Status
from dicomd.store import unfiled
from dicomd.store.errors import DataSetMismatch, DataSetUnreadable, LayoutElementInvalid, ObjectTooLarge, StoreError
from dicomd.store.filesystem import FileStore
from dicomd.store.layout import Layout
from dicomd.store.part10 import header
from dicomd.store.types import Stored
from dicomd.store.verification import Finding, verify
from tests.support.encoding import element
from tests.unit.store.instances import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    LAYOUT,
    SERIES,
    STUDY,
    assert_summed,
    data_set,
    file_store,
    files,
    head,
    identity,
    put,
)

KEPT = f"unfiled/{INSTANCE}.dcm"
FILE_META = element(0x00020010, "UI", EXPLICIT)
NO_ITEM = b"\xfe\xff\xdd\xe0\0\0\0\0"

# The Data Set, the transfer syntax that it is sent in, and the status and beginning of the message of its refusal.
Case = tuple[bytes, str, Status, str]
UNREADABLE = Status.DATA_SET_UNREADABLE
CASES: dict[str, Case] = {
    "empty": (b"", EXPLICIT, UNREADABLE, "Data Set is empty"),
    "cut off in an element": (data_set()[:60], EXPLICIT, UNREADABLE, "Data Set ends inside an element"),
    "a header cut off": (data_set()[:5], EXPLICIT, UNREADABLE, "Data Set ends inside an element"),
    "no UIDs": (element(0x7FE00010, "OW", b"\1\2"), EXPLICIT, UNREADABLE, "Data Set has no SOP Class"),
    "garbage": (b"\xff" * 600, EXPLICIT, UNREADABLE, "Data Set does not begin with an element"),
    "a delimiter": (NO_ITEM + data_set(), EXPLICIT, UNREADABLE, "Data Set does not begin with an element"),
    "a delimiter behind": (head(study=None, series=None) + NO_ITEM, EXPLICIT, UNREADABLE, "Item or delimiter"),
    "File Meta Information": (FILE_META + data_set(), EXPLICIT, UNREADABLE, "Data Set holds an element of File Meta"),
    "a Command Set": (element(2, "UI", "1.2") + data_set(), EXPLICIT, UNREADABLE, "Data Set holds an element of a C"),
    "a DICOMDIR": (
        element(0x00041130, "CS", "A ") + data_set(),
        EXPLICIT,
        UNREADABLE,
        "Data Set holds an element of a",
    ),
    "group 0006": (element(0x00060000, "UL", b"\0" * 4) + data_set(), EXPLICIT, UNREADABLE, "Data Set holds an elem"),
    "File Meta behind the UIDs": (
        head(study=None, series=None) + FILE_META + data_set(),
        EXPLICIT,
        UNREADABLE,
        "Data Set holds an element of File Meta",
    ),
    "big endian": (data_set(syntax=BIG_ENDIAN), EXPLICIT, UNREADABLE, "Data Set has another byte order"),
    "little endian": (data_set(), BIG_ENDIAN, UNREADABLE, "Data Set has another byte order"),
    "implicit little endian": (data_set(syntax=IMPLICIT), BIG_ENDIAN, UNREADABLE, "Data Set has another byte order"),
    "not deflated": (data_set(), DEFLATED, UNREADABLE, "Data Set is not a deflated stream"),
    "two studies": (
        head(series=None)
        + head(sop_class=None, instance=None, study="9.9", series=None)
        + element(0x7FE00010, "OW", b""),
        EXPLICIT,
        UNREADABLE,
        "Element occurs twice",
    ),
    "no study": (data_set(study=None), EXPLICIT, Status.LAYOUT_ELEMENT_INVALID, "A UID needed for the path"),
    "no series": (data_set(series=None), EXPLICIT, Status.LAYOUT_ELEMENT_INVALID, "A UID needed for the path"),
    "a study that leaves the store": (
        data_set(study="../../etc"),
        EXPLICIT,
        Status.LAYOUT_ELEMENT_INVALID,
        "A UID needed for the path",
    ),
}


def keeping(root: Path, **overrides: Any) -> FileStore:
    return file_store(root, unfiled="keep", **overrides)


def assert_kept(store: FileStore, root: Path, stored: Stored, data: bytes, syntax: str, name: str = KEPT) -> None:
    assert stored.name == f"{root}/{name}"
    assert (root / name).read_bytes() == header(identity(syntax=syntax)) + data
    assert stored.size == len(data)
    assert_summed(store, stored)


@pytest.mark.parametrize("cuts", ["whole", "byte by byte"])
@pytest.mark.parametrize("name", CASES)
def test_what_can_t_be_filed_is_refused_or_kept_as_it_came(tmp_path: Path, name: str, cuts: str) -> None:
    data, syntax, status, message = CASES[name]
    cut = range(1, len(data)) if cuts == "byte by byte" else ()
    with pytest.raises(StoreError) as refused:
        put(file_store(tmp_path / "refusing"), data, identity(syntax=syntax), cuts=cut)
    assert refused.value.status == status
    assert refused.value.message.startswith(message)
    assert files(tmp_path / "refusing") == []
    store = keeping(tmp_path / "keeping")
    stored = put(store, data, identity(syntax=syntax), cuts=cut)
    assert stored.refusal == (status, refused.value.message)
    assert stored.duplicate == ""
    assert_kept(store, tmp_path / "keeping", stored, data, syntax)
    assert files(tmp_path / "keeping") == [KEPT]


def test_what_can_be_filed_is_filed(tmp_path: Path) -> None:
    store = keeping(tmp_path)
    stored = put(store, data_set())
    assert stored.refusal is None
    assert files(tmp_path) == [f"{STUDY}/{SERIES}/{INSTANCE}.dcm"]
    flat = keeping(tmp_path / "flat", layout="{SOPInstanceUID}.dcm")
    assert put(flat, data_set(study=None, series=None)).refusal is None
    assert files(tmp_path / "flat") == [f"{INSTANCE}.dcm"]


def test_a_head_without_fault_is_no_pattern_for_one_with_a_fault(tmp_path: Path) -> None:
    """Nor the other way round: heads that are built alike are recognized without a scan."""
    store = keeping(tmp_path)
    for number in range(4):
        data = FILE_META + data_set(f"1.2.{number}")
        assert put(store, data, identity(f"1.2.{number}")).refusal is not None
    for number in range(4, 8):
        assert put(store, data_set(f"1.2.{number}"), identity(f"1.2.{number}")).refusal is None


# -- identity ----------------------------------------------------------------------------------------------------------

ANOTHER: dict[str, tuple[bytes, str, type[StoreError]]] = {
    "another instance": (data_set("9.9"), EXPLICIT, DataSetMismatch),
    "another class": (data_set(sop_class="9.9"), EXPLICIT, DataSetMismatch),
    "another instance in another byte order": (data_set("9.9", syntax=BIG_ENDIAN), EXPLICIT, DataSetMismatch),
    "another instance without a class": (data_set("9.9", sop_class=None), EXPLICIT, DataSetMismatch),
    "another instance behind File Meta": (FILE_META + data_set("9.9"), EXPLICIT, DataSetMismatch),
    "another instance before garbage": (
        head(instance="9.9", study=None, series=None) + NO_ITEM,
        EXPLICIT,
        DataSetMismatch,
    ),
    "another instance, cut off": (data_set("9.9")[:-2], EXPLICIT, DataSetMismatch),
    "another instance without study": (data_set("9.9", study=None), EXPLICIT, DataSetMismatch),
    "two instances": (
        head(study=None, series=None) + head(sop_class=None, instance="9.9"),
        EXPLICIT,
        DataSetUnreadable,
    ),
    "more behind the padding": (
        element(0x00080016, "UI", CT_IMAGE_STORAGE)
        + element(0x00080018, "UI", INSTANCE.encode().ljust(90, b"\0") + b".9"),
        EXPLICIT,
        DataSetUnreadable,
    ),
}


@pytest.mark.parametrize("cuts", ["whole", "byte by byte"])
@pytest.mark.parametrize("name", ANOTHER)
def test_another_instance_is_never_kept(tmp_path: Path, name: str, cuts: str) -> None:
    data, syntax, expected = ANOTHER[name]
    with pytest.raises(expected):
        put(keeping(tmp_path), data, identity(syntax=syntax), cuts=range(1, len(data)) if cuts != "whole" else ())
    assert files(tmp_path) == []


@pytest.mark.parametrize("uid", ["", "../../x", "1..2", "1.2/3", ".5", "1." * 40 + "1", "1.2\n", "ä"])
def test_a_name_that_is_no_uid_is_refused(tmp_path: Path, uid: str) -> None:
    """The service refuses it before (0117); the store doesn't rely on that."""
    with pytest.raises(LayoutElementInvalid):
        put(keeping(tmp_path), b"", identity(uid))
    assert files(tmp_path) == []


def test_a_limit_holds_for_it(tmp_path: Path) -> None:
    with pytest.raises(ObjectTooLarge):
        put(keeping(tmp_path, max_object_size=500), b"\xff" * 600, cuts=(100, 200))
    assert files(tmp_path) == []


# -- several under one UID ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicates", ["keep-both", "replace", "reject"])
def test_none_is_replaced_or_refused_because_of_another(tmp_path: Path, duplicates: str) -> None:
    store = keeping(tmp_path, duplicates=duplicates)
    sent = [b"\xff" * size for size in (600, 602, 604)]
    outcomes = [put(store, data) for data in (*sent, *sent)]
    assert [stored.duplicate for stored in outcomes] == ["", "kept-both", "kept-both"] + 3 * ["identical"]
    assert all(stored.refusal is not None for stored in outcomes)
    names = [KEPT, *(f"unfiled/{INSTANCE}_{number}.dcm" for number in (1, 2))]
    assert files(tmp_path) == sorted(names)
    for name, data, stored in zip(names, sent, outcomes[:3], strict=True):
        assert_kept(store, tmp_path, stored, data, EXPLICIT, name)


def test_a_filed_one_and_an_unfiled_one_do_not_know_each_other(tmp_path: Path) -> None:
    store = keeping(tmp_path, duplicates="reject")
    put(store, data_set())
    assert put(store, data_set(series=None)).duplicate == ""
    assert put(store, data_set()).duplicate == "identical"
    assert files(tmp_path) == sorted([f"{STUDY}/{SERIES}/{INSTANCE}.dcm", KEPT])


def test_another_transfer_syntax_is_another_data_set(tmp_path: Path) -> None:
    store = keeping(tmp_path)
    put(store, b"")
    assert put(store, b"", identity(syntax=IMPLICIT)).duplicate == "kept-both"


def test_a_full_folder_refuses_as_if_nothing_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfiled, "MOST", 3)
    monkeypatch.setattr(unfiled, "_PAUSE", 0.0)
    store = keeping(tmp_path)
    for number in range(3):
        put(store, b"", identity(f"1.{number}"))
    for data in (b"", FILE_META + data_set("1.4"), data_set("1.4", study=None)):
        with pytest.raises(StoreError) as refused:
            put(store, data, identity("1.4"))
        assert refused.value.operation == "unfiled"
        assert refused.value.errno == ""
    assert len(files(tmp_path)) == 3
    assert store.state.accepting
    put(store, data_set("1.4"), identity("1.4"))
    (tmp_path / "unfiled" / "1.1.dcm").unlink()
    put(store, b"", identity("1.5"))


def test_a_full_folder_is_not_counted_for_every_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfiled, "MOST", 1)
    store = keeping(tmp_path)
    put(store, b"", identity("1.1"))
    counted: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (counted.append(path), scandir(path))[1])
    for _ in range(20):
        with pytest.raises(StoreError):
            put(store, b"", identity("1.2"))
    assert len(counted) <= 2


# -- durability --------------------------------------------------------------------------------------------------------


def test_it_is_synced_before_it_counts_as_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return call(*args, **options)

        return run

    store = keeping(tmp_path)
    for name in ("fdatasync", "link", "fsync"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    put(store, b"")
    assert calls == ["fdatasync", "link", "fsync", "fsync"], "the file, its name, its folder, and the root"


@pytest.mark.parametrize("call", ["fdatasync", "link", "fsync", "mkdir"])
def test_a_failure_leaves_nothing_and_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = keeping(tmp_path)

    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch, pytest.raises(StoreError) as refused:
        patch.setattr(os, call, fail)
        put(store, b"\xff" * 600)
    assert refused.value.status == Status.STORE_UNAVAILABLE
    assert files(tmp_path) == []


def test_nothing_of_a_writer_is_part_of_a_cycle(tmp_path: Path) -> None:
    store = keeping(tmp_path)
    put(store, b"")
    gc.collect()
    gc.disable()
    try:
        for data, syntax, _, _ in CASES.values():
            put(store, data, identity(syntax=syntax))
        del data, syntax
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- verification ------------------------------------------------------------------------------------------------------


def found(root: Path) -> list[Finding]:
    return list(verify(root, Layout(LAYOUT)))


@pytest.mark.parametrize("checksums", [True, False])
def test_verification_counts_them_and_calls_none_damaged(tmp_path: Path, checksums: bool) -> None:
    store = keeping(tmp_path, checksums=checksums)
    for data, syntax, _, _ in CASES.values():
        put(store, data, identity(syntax=syntax))
    put(store, data_set("1.7"), identity("1.7"))
    findings = found(tmp_path)
    assert [finding.problem for finding in findings if finding.problem] == []
    assert sum(finding.unfiled for finding in findings) == len(files(tmp_path)) - 1
    assert sum(finding.compared for finding in findings) == store.checksums * len(files(tmp_path))


def test_verification_finds_what_is_broken_among_them(tmp_path: Path) -> None:
    store = keeping(tmp_path, checksums=False)
    for number in range(4):
        put(store, b"", identity(f"1.{number}"))
    folder = tmp_path / "unfiled"
    (folder / "1.0.dcm").write_bytes((folder / "1.0.dcm").read_bytes()[:200])
    (folder / "1.1.dcm").rename(folder / "1.9.dcm")
    (folder / "below").mkdir()
    (folder / "1.2.dcm").rename(folder / "below" / "1.2.dcm")
    (folder / "list.txt").touch()
    problems = {finding.path: finding.problem for finding in found(tmp_path) if finding.problem}
    misnamed = "it isn't named after its SOP Instance UID, as unfiled instances are"
    assert problems == {
        "unfiled/1.0.dcm": "not a Part 10 file",
        "unfiled/1.9.dcm": misnamed,
        "unfiled/below/1.2.dcm": misnamed,
        "unfiled/list.txt": "not a file of dicomd's",
    }


def test_verification_compares_their_checksums(tmp_path: Path) -> None:
    store = keeping(tmp_path)
    if not store.checksums:
        pytest.skip("the temporary folder's file system has no extended attributes")
    path = put(store, zlib.compress(b"anything")).path
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    assert [finding.problem for finding in found(tmp_path)] == ["it isn't what was received: the checksum differs"]
