"""Checksums recorded at reception, and verification of the store: which files are reported, and which aren't."""

import os
import shutil
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import xxhash

from dicomd.store.filesystem import FileStore
from dicomd.store.layout import Layout
from dicomd.store.part10 import header
from dicomd.store.verification import Finding, survey, verify
from dicomd.store.whole import CUT_OFF, DAMAGED_STREAM
from tests.support.encoding import element
from tests.unit.store.instances import (
    DEFLATED,
    IMPLICIT,
    INSTANCE,
    LAYOUT,
    SERIES,
    STUDY,
    data_set,
    file_store,
    head,
    identity,
    put,
    recorded,
)
from tests.unit.store.processes import Process

PLACE = f"{STUDY}/{SERIES}/{INSTANCE}.dcm"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = file_store(tmp_path)
    if not store.checksums:
        pytest.skip("the temporary folder's file system has no extended attributes")
    return store


def findings(root: Path, layout: str = LAYOUT) -> list[Finding]:
    return list(verify(root, Layout(layout)))


def problems(root: Path, layout: str = LAYOUT) -> dict[str, str]:
    return {finding.path: finding.problem for finding in findings(root, layout) if finding.problem}


@pytest.mark.parametrize("cuts", [(), (1, 2, 200), tuple(range(3, 3000, 7))])
def test_the_checksum_of_the_whole_file_is_recorded_in_it(store: FileStore, cuts: tuple[int, ...]) -> None:
    stored = put(store, data_set(pixels=bytes(range(256)) * 12), cuts=cuts)
    assert recorded(stored.path) == xxhash.xxh128_digest(stored.path.read_bytes())
    moved = stored.path.rename(stored.path.with_name("moved.dcm"))
    assert recorded(moved) is not None


def test_the_checksum_is_recorded_before_the_file_is_synced(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the checksum becomes durable with the file."""
    sync, recorded_by_then = os.fdatasync, []

    def look_and_sync(fd: int) -> None:
        recorded_by_then.append(recorded(Path(f"/proc/self/fd/{fd}")))
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", look_and_sync)
    stored = put(store, data_set())
    assert recorded_by_then == [xxhash.xxh128_digest(stored.path.read_bytes())]


def test_every_kind_of_duplicate_has_its_own(store: FileStore, tmp_path: Path) -> None:
    put(store, data_set())
    put(store, data_set(pixels=b"else"))
    replacing = file_store(tmp_path, duplicates="replace")
    put(replacing, data_set(pixels=b"new!"))
    found = findings(tmp_path)
    assert [(finding.problem, finding.compared) for finding in found] == [("", True)] * 2


def test_none_are_recorded_unless_wanted(tmp_path: Path) -> None:
    stored = put(file_store(tmp_path, checksums=False), data_set())
    assert recorded(stored.path) is None
    assert findings(tmp_path) == [Finding(PLACE, stored.path.stat().st_size, compared=False)]


def test_a_file_system_without_attributes_is_used_without_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setxattr(fd: int, name: str, value: bytes) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", setxattr)
    store = file_store(tmp_path)
    assert not store.checksums
    put(store, data_set())
    assert problems(tmp_path) == {}


def test_a_sound_store_has_no_problem(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    sizes = 0
    for number in range(3):
        sizes += put(store, data_set(f"1.{number}"), identity(f"1.{number}")).path.stat().st_size
    deflated = zlib.compressobj(wbits=-15)
    data = deflated.compress(head(instance="1.9")) + deflated.flush()
    sizes += put(store, data, identity("1.9", syntax=DEFLATED)).path.stat().st_size
    assert problems(tmp_path) == {}
    assert len(findings(tmp_path)) == 4
    assert survey(tmp_path) == sizes


@pytest.mark.parametrize("at", [0, 140, 300, -1])
def test_a_changed_byte_is_found(store: FileStore, tmp_path: Path, at: int) -> None:
    path = put(store, data_set(pixels=bytes(1000))).path
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    assert "checksum" in problems(tmp_path)[PLACE]
    (finding,) = findings(tmp_path)
    assert "have it sent again" in finding.advice


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", IMPLICIT, DEFLATED])
@pytest.mark.parametrize("lost", [1, 3, 8, 150])
def test_without_a_checksum_what_is_cut_off_is_found(tmp_path: Path, syntax: str, lost: int) -> None:
    store = file_store(tmp_path, checksums=False)
    data = data_set(pixels=os.urandom(200), syntax=IMPLICIT if syntax == IMPLICIT else "1.2.840.10008.1.2.1")
    if syntax == DEFLATED:
        deflated = zlib.compressobj(wbits=-15)
        data = deflated.compress(data) + deflated.flush()
    path = put(store, data, identity(syntax=syntax)).path
    assert problems(tmp_path) == {}
    os.truncate(path, path.stat().st_size - lost)
    assert problems(tmp_path)[PLACE] in (CUT_OFF, DAMAGED_STREAM)


def test_undefined_lengths_and_long_values_are_followed_to_the_end(tmp_path: Path) -> None:
    store = file_store(tmp_path, checksums=False)
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0" + (100_000).to_bytes(4, "little") + bytes(100_000)
    pixels = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path = put(store, head() + pixels, identity(syntax="1.2.840.10008.1.2.4.50")).path
    assert problems(tmp_path) == {}
    os.truncate(path, path.stat().st_size - 8)
    assert "ends inside" in problems(tmp_path)[PLACE]


def test_what_is_no_instances_file_is_found(tmp_path: Path) -> None:
    file_store(tmp_path).close()
    (tmp_path / STUDY).mkdir()
    (tmp_path / STUDY / "notes.txt").write_text("x")
    (tmp_path / STUDY / "1.dcm").write_text("not DICOM")
    (tmp_path / STUDY / "2.dcm").symlink_to("1.dcm")
    os.mkfifo(tmp_path / STUDY / "3.dcm")
    (tmp_path / STUDY / "empty").mkdir()
    assert problems(tmp_path) == {
        f"{STUDY}/1.dcm": "not a Part 10 file",
        f"{STUDY}/2.dcm": "not a file of dicomd's",
        f"{STUDY}/3.dcm": "not a file of dicomd's",
        f"{STUDY}/notes.txt": "not a file of dicomd's",
    }


def test_a_file_in_a_wrong_place_is_found(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    path = put(store, data_set()).path
    (tmp_path / "9").mkdir()
    shutil.copy2(path, tmp_path / "9" / path.name)
    shutil.copy2(path, path.with_name("7.dcm"))
    shutil.copy2(path, path.with_name(f"{INSTANCE}_12.dcm"))  # a valid place for a second one kept beside the first
    shutil.copy2(path, path.with_name(f"{INSTANCE}_x.dcm"))
    wrong = f"it belongs at {PLACE}"
    assert problems(tmp_path) == {
        f"9/{INSTANCE}.dcm": wrong,
        f"{STUDY}/{SERIES}/7.dcm": wrong,
        f"{STUDY}/{SERIES}/{INSTANCE}_x.dcm": wrong,
    }
    assert set(problems(tmp_path, "{SOPInstanceUID}.dcm").values()) == {f"it belongs at {INSTANCE}.dcm"}


OF_THE_TRANSFER = "{CalledAETitle}/{CallingAETitle}/{Peer}/{ReceivedDate}/{Modality}_{StudyDate}/{SOPInstanceUID}.dcm"


def with_date_and_modality(date: str, modality: str) -> bytes:
    return element(0x00080020, "DA", date) + element(0x00080060, "CS", modality) + data_set()


@pytest.mark.parametrize("called", ["ARCHIVE", "A/B", "..", "none", "", "back\\slash", "\xe9"])
def test_what_a_file_tells_of_its_path_is_checked(tmp_path: Path, called: str) -> None:
    store = file_store(tmp_path, layout=OF_THE_TRANSFER)
    who = identity(called=called, calling="CT.1")._replace(peer="ct1")
    put(store, with_date_and_modality("20240229", "CT"), who)
    path = put(store, with_date_and_modality("2024.02.29", "CT"), who).path
    assert path.name == f"{INSTANCE}_1.dcm"
    assert problems(tmp_path, OF_THE_TRANSFER) == {}
    title, calling, peer, received, folder, _ = path.relative_to(tmp_path).parts
    rest = f"{received}/CT_20240229/{INSTANCE}.dcm"
    for wrong in (
        f"OTHER/{calling}/{peer}/{received}/{folder}",
        f"{title}/ct.1/{peer}/{received}/{folder}",
        f"{title}/{calling}/{peer}/{received}/MR_20240229",
        f"{title}/{calling}/{peer}/{received}/CT_none",
    ):
        (tmp_path / wrong).mkdir(parents=True)
        shutil.copy2(path, tmp_path / wrong)
    found = problems(tmp_path, OF_THE_TRANSFER)
    assert len(found) == 4
    if called not in ("back\\slash", "\xe9"):  # which File Meta Information can't hold
        assert set(found.values()) == {f"it belongs at {title}/{calling}/{peer}/{rest}"}


@pytest.mark.parametrize("longer", [0, 60, 68, 69, 70, 71, 72, 74, 78, 100])
def test_a_value_with_much_padding_belongs_where_it_was_stored(tmp_path: Path, longer: int) -> None:
    store = file_store(tmp_path, layout=OF_THE_TRANSFER)
    put(store, with_date_and_modality("20240229" + longer * " ", "CT" + longer * " "))
    assert problems(tmp_path, OF_THE_TRANSFER) == {}


def test_of_what_no_file_tells_the_form_is_checked(tmp_path: Path) -> None:
    store = file_store(tmp_path, layout=OF_THE_TRANSFER)
    path = put(store, with_date_and_modality("", "ct"), identity()).path
    folders = path.relative_to(tmp_path).parts
    assert (folders[:3], folders[4]) == (("DICOMD", "CT1", "unknown"), "none_none")
    for peer, received in (("another", "19991231"), ("none", "19991231"), ("another", "20260229"), ("an other", "x")):
        folder = tmp_path / "DICOMD/CT1" / peer / received / "none_none"
        folder.mkdir(parents=True)
        shutil.copy2(path, folder)
    end = f"none_none/{INSTANCE}.dcm"
    assert problems(tmp_path, OF_THE_TRANSFER) == {
        f"DICOMD/CT1/none/19991231/{end}": f"it belongs at DICOMD/CT1/{{Peer}}/19991231/{end}",
        f"DICOMD/CT1/another/20260229/{end}": f"it belongs at DICOMD/CT1/another/{{ReceivedDate}}/{end}",
        f"DICOMD/CT1/an other/x/{end}": f"it belongs at DICOMD/CT1/{{Peer}}/{{ReceivedDate}}/{end}",
    }


def test_a_file_without_ae_titles_may_be_in_the_folder_of_any(tmp_path: Path) -> None:
    """As files are that were not written by dicomd, or by a version that didn't record the called one."""
    layout = "{CalledAETitle}/{SOPInstanceUID}.dcm"
    store = file_store(tmp_path, layout=layout, checksums=False)
    path = put(store, data_set()).path
    content = path.read_bytes()
    at = content.index(b"\2\0\x18\0AE")
    without = content[:at] + content[at + 14 :]
    length = int.from_bytes(content[140:144], "little") - 14
    path.write_bytes(without[:140] + length.to_bytes(4, "little") + without[144:])
    (tmp_path / "any").mkdir()
    shutil.copy2(path, tmp_path / "any")
    (tmp_path / "a b").mkdir()
    shutil.copy2(path, tmp_path / "a b")
    assert problems(tmp_path, layout) == {
        f"a b/{INSTANCE}.dcm": f"it belongs at {{CalledAETitle}}/{INSTANCE}.dcm",
    }


def test_a_data_set_that_contradicts_its_header_or_cannot_be_read_is_found(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    folder = put(store, data_set()).path.parent
    (folder / "1.1.dcm").write_bytes(header(identity("1.1")) + data_set("1.2"))
    (folder / "1.3.dcm").write_bytes(header(identity("1.3")) + b"\xff" * 200)
    (folder / "1.4.dcm").write_bytes(header(identity("1.4")) + data_set("1.4", study="../x"))
    found = problems(tmp_path)
    assert "names another" in found[f"{STUDY}/{SERIES}/1.1.dcm"]
    assert "can't be read" in found[f"{STUDY}/{SERIES}/1.3.dcm"]
    assert "missing or invalid" in found[f"{STUDY}/{SERIES}/1.4.dcm"]
    assert len(found) == 3


def test_remains_of_a_crash_are_found_and_files_of_a_living_process_are_not(tmp_path: Path) -> None:
    with Process("hold", tmp_path) as process:
        process.wait_until_ready()
        assert problems(tmp_path) == {}
    found = problems(tmp_path)
    assert len(found) == 2
    assert set(found.values()) == {"left by a crash"}
    assert len(list((tmp_path / ".dicomd" / "tmp").iterdir())) == 2  # verification only reads


def test_a_missing_sentinel_is_found(tmp_path: Path) -> None:
    assert problems(tmp_path)[".dicomd/store"] == "the store's sentinel is missing"


def test_what_goes_while_it_is_counted_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file_store(tmp_path)
    stays = put(store, data_set("1.1"), identity("1.1")).path
    goes = put(store, data_set("1.2"), identity("1.2")).path
    scandir = os.scandir

    def and_gone(path: Path) -> AbstractContextManager[list[os.DirEntry[str]]]:
        with scandir(path) as found:
            entries = list(found)
        if goes.name in [entry.name for entry in entries]:
            goes.unlink()
        return nullcontext(entries)

    monkeypatch.setattr(os, "scandir", and_gone)
    assert survey(tmp_path) == stays.stat().st_size
    assert not goes.exists()


def test_what_goes_meanwhile_is_no_problem(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    for number in range(4):
        put(store, data_set(f"1.{number}"), identity(f"1.{number}"))
    looking = verify(tmp_path, Layout(LAYOUT))
    assert next(looking).problem == ""
    shutil.rmtree(tmp_path / STUDY)
    assert list(looking) == []
