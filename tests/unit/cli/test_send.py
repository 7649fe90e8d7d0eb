"""`dicomd send`: real files to a real peer, byte for byte."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import AllStoragePresentationContexts

from dicomd.cli.file_head import read_file_head
from tests.support.cost import calls

Call = Callable[..., Result]
Start = Callable[..., object]

# explicit, implicit, big endian, deflated, encapsulated; undefined lengths, private elements, padding
SAMPLES = (
    "CT_small.dcm",
    "rtplan.dcm",
    "ExplVR_BigEnd.dcm",
    "image_dfl.dcm",
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "MR_small_padded.dcm",
    "test-SR.dcm",
    "UN_sequence.dcm",
    "waveform_ecg.dcm",
)


def sample(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert found is not None
    return Path(str(found))


def data_set_of(path: Path) -> bytes:
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def write_instance(path: Path, sop_class: str) -> Path:
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    data_set.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two instances, one in a subfolder, and files that are not DICOM."""
    (tmp_path / "series").mkdir()
    shutil.copy(sample("CT_small.dcm"), tmp_path / "a.dcm")
    shutil.copy(sample("JPEG2000.dcm"), tmp_path / "series" / "b")
    (tmp_path / "series" / "README.txt").write_text("hello")
    return tmp_path


@pytest.mark.parametrize("name", SAMPLES)
def test_data_set_arrives_as_it_is_in_the_file(dicomd: Call, start_peer: Start, name: str) -> None:
    path = sample(name)
    data_set = dcmread(path, stop_before_pixels=True)
    meta = data_set.file_meta
    sop_class = data_set.get("SOPClassUID", meta.MediaStorageSOPClassUID)  # UN_sequence.dcm has them in its meta only
    instance = data_set.get("SOPInstanceUID", meta.MediaStorageSOPInstanceUID)
    peer = start_peer([(sop_class, [meta.TransferSyntaxUID])])
    result = dicomd("send", "127.0.0.1", peer.port, path)
    assert result.exit_code == 0, result.output
    assert peer.received == [(instance, meta.TransferSyntaxUID, data_set_of(path))]


@pytest.mark.parametrize("missing", ["preamble", "File Meta"])
@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "ExplVR_BigEnd.dcm"])
def test_a_file_is_sent_without_what_part_10_puts_before_the_data_set(
    dicomd: Call, start_peer: Start, tmp_path: Path, name: str, missing: str
) -> None:
    original = sample(name)
    data_set = dcmread(original, stop_before_pixels=True)
    syntax = data_set.file_meta.TransferSyntaxUID
    path = tmp_path / name
    path.write_bytes(original.read_bytes()[132:] if missing == "preamble" else data_set_of(original))
    peer = start_peer([(data_set.SOPClassUID, [syntax])])
    result = dicomd("send", "127.0.0.1", peer.port, path)
    assert result.exit_code == 0, result.output
    assert peer.received == [(data_set.SOPInstanceUID, syntax, data_set_of(original))]


def test_the_command_names_the_data_set_s_uids_where_file_meta_names_others(
    dicomd: Call, start_peer: Start, tmp_path: Path
) -> None:
    path = write_instance(tmp_path / "edited.dcm", CTImageStorage)
    edited = dcmread(path)
    edited.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    edited.save_as(path, enforce_file_format=False)
    assert dcmread(path).file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    peer = start_peer([(CTImageStorage, [ExplicitVRLittleEndian])])
    result = dicomd("send", "127.0.0.1", peer.port, path)
    assert result.exit_code == 0, result.output
    assert peer.received == [(edited.SOPInstanceUID, ExplicitVRLittleEndian, data_set_of(path))]


def test_a_temporary_copy_has_no_name_that_could_be_left_behind(
    dicomd: Call, start_peer: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = tmp_path / "no_meta.dcm"
    path.write_bytes(data_set_of(write_instance(path, CTImageStorage)))
    peer = start_peer()
    named: list[list[str]] = []

    def answer(_event: object) -> int:
        named.append([found.name for found in temporary.iterdir()])
        return 0

    peer.answer = answer
    assert dicomd("send", "127.0.0.1", peer.port, path).exit_code == 0
    assert named == [[]]


@pytest.mark.parametrize("uid", ["1" * 65, "1.2\\1.3", "1.2\x1b[31m", "CT"])
@pytest.mark.parametrize("tag", [b"\2\0\x10\0", b"\x08\0\x16\0", b"\x08\0\x18\0"])
def test_a_file_with_an_invalid_uid_costs_that_file_only(
    dicomd: Call, start_peer: Start, tmp_path: Path, tag: bytes, uid: str
) -> None:
    good = write_instance(tmp_path / "good.dcm", CTImageStorage)
    data = good.read_bytes()
    at = data.index(tag + b"UI")
    value = uid.encode() + b"\0" * (len(uid) % 2)
    value_end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(data[: at + 6] + len(value).to_bytes(2, "little") + value + data[value_end:])
    peer = start_peer([(CTImageStorage, [ExplicitVRLittleEndian])])
    result = dicomd("send", "127.0.0.1", peer.port, bad, good)
    assert result.exit_code == 1
    assert f"failed: {bad}: a UID in it isn't valid: " in result.stderr
    assert "\x1b" not in result.stderr
    assert [instance for instance, _, _ in peer.received] == [dcmread(good).SOPInstanceUID]


@pytest.mark.parametrize("missing", ["", "File Meta"])
def test_a_file_that_goes_on_with_nuls_is_not_read_to_its_end(tmp_path: Path, missing: str) -> None:
    """As after a crash of its writer: each 8 of them are an element without a value."""
    path = write_instance(tmp_path / "nuls.dcm", CTImageStorage)
    beginning = data_set_of(path) if missing else path.read_bytes()
    path.write_bytes(beginning)
    with path.open("ab") as file:
        file.truncate(1 << 20)
    with path.open("rb") as file:
        assert calls(lambda: read_file_head(file)) < 10_000


def test_folder_is_sent_over_one_association_and_the_rest_is_noted(
    dicomd: Call, start_peer: Start, folder: Path
) -> None:
    peer = start_peer()
    result = dicomd("send", "127.0.0.1", peer.port, folder)
    assert result.exit_code == 0
    assert sorted(data_set for _, _, data_set in peer.received) == sorted(
        data_set_of(path) for path in (folder / "a.dcm", folder / "series/b")
    )
    assert peer.associations == 1
    assert result.stderr == f"skipped: {folder}/series/README.txt: not a DICOM file\n"
    assert result.stdout.startswith(f"127.0.0.1:{peer.port}: 2 stored (")
    assert result.stdout.endswith(", 0 failed\n")


def test_failure_is_told_with_status_and_error_comment(dicomd: Call, start_peer: Start, folder: Path) -> None:
    def answer(event: object) -> Dataset:
        status = Dataset()
        status.Status = 0xA700
        status.ErrorComment = "disk is \x1b[31mfull"
        return status

    peer = start_peer()
    peer.answer = answer
    result = dicomd("send", "127.0.0.1", peer.port, folder)
    assert result.exit_code == 1
    assert f"failed: {folder}/a.dcm: 0xA700 (Failure: Refused: Out of Resources): disk is ?[31mfull\n" in result.stderr
    assert "0 stored" in result.stdout
    assert "2 failed" in result.stdout


def test_warning_counts_as_stored(dicomd: Call, start_peer: Start, folder: Path) -> None:
    peer = start_peer()
    peer.answer = lambda event: 0xB000
    result = dicomd("send", "127.0.0.1", peer.port, folder / "a.dcm")
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "1 stored" in result.stdout
    assert "1 with a warning, 0 failed" in result.stdout


def test_refused_context_fails_that_file_only(dicomd: Call, start_peer: Start, folder: Path) -> None:
    peer = start_peer([("1.2.840.10008.5.1.4.1.1.2", [ExplicitVRLittleEndian])])
    result = dicomd("send", "127.0.0.1", peer.port, folder)
    assert result.exit_code == 1
    assert len(peer.received) == 1
    assert f"failed: {folder}/series/b: the peer refuses " in result.stderr
    assert " in JPEG 2000 Image Compression" in result.stderr


def test_association_lost_in_the_middle_costs_one_file(dicomd: Call, start_peer: Start, tmp_path: Path) -> None:
    peer = start_peer()
    for name in "abc":
        write_instance(tmp_path / name, "1.2.840.10008.5.1.4.1.1.2")

    def answer(event: object) -> int:
        if len(peer.received) == 2:
            event.assoc.abort()
        return 0x0000

    peer.answer = answer
    result = dicomd("send", "127.0.0.1", peer.port, tmp_path, "--timeout", "5s")
    assert result.exit_code == 1
    assert f"failed: {tmp_path}/b: the peer aborted the Association" in result.stderr
    assert "2 stored" in result.stdout
    assert "1 failed" in result.stdout
    assert peer.associations == 2


@pytest.mark.slow
def test_more_than_128_contexts_take_several_associations(dicomd: Call, start_peer: Start, tmp_path: Path) -> None:
    sop_classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts[:130]]
    peer = start_peer([(sop_class, [ExplicitVRLittleEndian]) for sop_class in sop_classes])
    for number, sop_class in enumerate(sop_classes):
        write_instance(tmp_path / f"{number:03}.dcm", sop_class)
    result = dicomd("send", "127.0.0.1", peer.port, tmp_path)
    assert result.exit_code == 0, result.output
    assert len(peer.received) == 130
    assert peer.associations == 2


def test_nobody_there_fails_every_file_with_the_reason(dicomd: Call, start_peer: Start, folder: Path) -> None:
    peer = start_peer(require_called_aet=True)
    result = dicomd("send", "127.0.0.1", peer.port, folder)
    assert result.exit_code == 1
    assert result.stderr.count("Called AE Title not recognized (1/1/7)") == 2
    assert "0 stored" in result.stdout


def test_terminal_gets_a_progress_bar(start_peer: Start, folder: Path) -> None:
    peer = start_peer()
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "dicomd", "send", "127.0.0.1", str(peer.port), str(folder)]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "wb") as stderr:
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, timeout=30, check=True)
        shown = terminal.read(65536).decode()
    assert f"Sending to 127.0.0.1:{peer.port}" in shown
    assert "100%" in shown
    assert b"2 stored" in ran.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing.dcm", "failed: {}: no such file"),
        ("no_meta.dcm", "skipped: {}: not a DICOM file"),
        ("meta_missing_tsyntax.dcm", "failed: {}: it has no Transfer Syntax UID"),
        ("JPEG2000.dcm", "failed: {}: it has no Transfer Syntax UID, and its Data Set doesn't show"),
    ],
)
def test_without_anything_to_send_nobody_is_called(dicomd: Call, tmp_path: Path, name: str, why: str) -> None:
    """The JPEG 2000 file is without its File Meta Information, so that nothing says how its pixels are encoded."""
    path = tmp_path / name
    if name == "JPEG2000.dcm":
        path.write_bytes(data_set_of(sample(name)))
    elif name != "missing.dcm":
        shutil.copy(sample(name), path)
    result = dicomd("send", "127.0.0.1", 1, path)
    assert result.exit_code == 1
    assert why.format(path) in result.stderr
    assert result.stderr.endswith("nothing to send\n")
