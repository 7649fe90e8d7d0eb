"""File Meta Information: exactly the promised elements, readable by others, and read back from others' files."""

import os
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from dicomd.ae_titles import legal_ae_title
from dicomd.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomd.store.part10 import Header, header, read_header
from dicomd.store.types import InstanceIdentity
from tests.unit.store.instances import CT_IMAGE_STORAGE, EXPLICIT, INSTANCE, data_set, element, identity


def written(tmp_path: Path, who: InstanceIdentity, data: bytes = b"") -> Path:
    path = tmp_path / "written.dcm"
    path.write_bytes(header(who) + data)
    return path


def read(path: Path) -> Header | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_header(fd)
    finally:
        os.close(fd)


def test_file_meta_has_the_promised_elements_and_no_others(tmp_path: Path) -> None:
    path = written(tmp_path, identity("1.2.3.4.5.6"), data_set("1.2.3.4.5.6"))
    assert path.read_bytes()[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(path).file_meta
    assert isinstance(meta, FileMetaDataset)
    assert [element.tag for element in meta] == [
        0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013, 0x00020016, 0x00020018,
    ]  # fmt: skip
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == CT_IMAGE_STORAGE
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.4.5.6"
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "CT1"
    assert meta.ReceivingApplicationEntityTitle == "DICOMD"


@pytest.mark.parametrize("instance", ["1.2", "1.2.3"])
@pytest.mark.parametrize("calling", ["A", "AB", ""])
def test_the_group_length_leads_to_the_data_set(tmp_path: Path, instance: str, calling: str) -> None:
    path = written(tmp_path, identity(instance, calling=calling), data_set(instance))
    data = pydicom.dcmread(path)
    assert data.file_meta.FileMetaInformationGroupLength + 144 == len(header(identity(instance, calling=calling)))
    assert data.SOPInstanceUID == instance
    offset = len(header(identity(instance, calling=calling)))
    assert read(path) == Header(CT_IMAGE_STORAGE, instance, EXPLICIT, offset, calling, "DICOMD")


def test_the_implementation_names_itself_within_its_vrs() -> None:
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid
    assert IMPLEMENTATION_CLASS_UID.startswith("2.25.")
    assert 0 < len(IMPLEMENTATION_VERSION_NAME) <= 16


@pytest.mark.parametrize(
    ("sent", "legal"),
    [
        ("CT1", "CT1"),
        (" CT 1 ", "CT 1"),
        ("A\\B", "A?B"),
        ("A\0B\x1b", "A?B?"),
        ("Ä€", "??"),
        ("X" * 20, "X" * 16),
        ("   ", ""),
    ],
)
def test_an_ae_title_becomes_a_legal_one(tmp_path: Path, sent: str, legal: str) -> None:
    assert legal_ae_title(sent) == legal
    meta = pydicom.dcmread(written(tmp_path, identity(calling=sent), data_set())).file_meta
    assert meta.SourceApplicationEntityTitle == legal
    meta = pydicom.dcmread(written(tmp_path, identity(called=sent), data_set())).file_meta
    assert meta.ReceivingApplicationEntityTitle == legal


@pytest.mark.parametrize("name", ["CT_small.dcm", "JPEG2000.dcm", "ExplVR_BigEnd.dcm", "image_dfl.dcm"])
def test_files_of_other_writers_are_read(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    found = read(path)
    assert found is not None
    assert found.transfer_syntax_uid == meta.TransferSyntaxUID
    assert found.sop_instance_uid == meta.MediaStorageSOPInstanceUID
    assert found.data_set_offset == meta.FileMetaInformationGroupLength + 144


@pytest.mark.parametrize(
    "content",
    [b"", b"DICM", bytes(132), bytes(128) + b"DICM", header(identity())[:300], header(identity())[:-3], b"x" * 1000],
)
def test_what_is_no_part_10_file_has_no_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    found = read(path)
    assert found is None or found.data_set_offset == len(content)


def test_an_element_of_group_0002_in_the_data_set_is_not_taken_for_file_meta(tmp_path: Path) -> None:
    """Which PS3.5 §7.1 forbids, but earlier versions stored."""
    meta = header(identity())
    (tmp_path / "file").write_bytes(meta + element(0x00020010, "UI", "1.2.840.10008.1.2.4.70") + data_set())
    assert read(tmp_path / "file") == Header(CT_IMAGE_STORAGE, INSTANCE, EXPLICIT, len(meta), "CT1", "DICOMD")


def test_endless_file_meta_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.write_bytes(bytes(128) + b"DICM" + b"\2\0\1\0OB\0\0\0\0\0\0" * 100_000)
    assert read(path) is None


@pytest.mark.parametrize("uid", ["1", "1.2", "1.2.3", "1." * 31 + "12"])
@pytest.mark.parametrize("title", ["A", "AB"])
def test_uids_of_any_length_are_padded_and_counted(tmp_path: Path, uid: str, title: str) -> None:
    who = identity(uid)._replace(calling_ae_title=title)
    for _ in range(2):  # the second time from the cache
        meta = pydicom.dcmread(written(tmp_path, who, data_set(uid))).file_meta
        assert meta.MediaStorageSOPInstanceUID == uid
        assert meta.MediaStorageSOPClassUID == who.sop_class_uid
        assert meta.SourceApplicationEntityTitle == title
        assert meta.FileMetaInformationGroupLength + 144 == len(header(who))
