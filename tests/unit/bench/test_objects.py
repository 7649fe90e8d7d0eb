"""The files made for senders that read files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from bench import objects


def test_each_file_is_a_readable_instance_of_its_own(tmp_path: Path) -> None:
    objects.write_files(tmp_path / "files", 5, 4096)
    read = [dcmread(path) for path in sorted((tmp_path / "files").iterdir())]
    assert len({data_set.SOPInstanceUID for data_set in read}) == len(read) == 5
    for data_set in read:
        assert data_set.file_meta.MediaStorageSOPInstanceUID == data_set.SOPInstanceUID
        assert data_set.file_meta.MediaStorageSOPClassUID == data_set.SOPClassUID
        assert data_set.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert len(data_set.PixelData) == 4096


def test_files_differ_in_their_uid_only(tmp_path: Path) -> None:
    objects.write_files(tmp_path / "files", 2, 4096)
    first, second = ((tmp_path / "files" / f"0000{number}.dcm") for number in (1, 2))
    uid_of_first, uid_of_second = (str(dcmread(path).SOPInstanceUID).encode() for path in (first, second))
    assert first.read_bytes().replace(uid_of_first, uid_of_second) == second.read_bytes()


def test_two_folders_share_no_instance(tmp_path: Path) -> None:
    for name in ("a", "b"):
        objects.write_files(tmp_path / name, 3, 1024)
    uids = [dcmread(path).SOPInstanceUID for path in tmp_path.rglob("*.dcm")]
    assert len(set(uids)) == 6


def test_patching_counts_what_it_replaced() -> None:
    content = bytearray(b"..2.25.11....2.25.11..")
    assert objects.patch_uid(content, b"2.25.11", b"2.25.12") == 2
    assert bytes(content) == b"..2.25.12....2.25.12.."


def test_patching_leaves_the_pixels_alone() -> None:
    content = bytearray(b"2.25.11" + b"\0" * 4096 + b"2.25.11")
    assert objects.patch_uid(content, b"2.25.11", b"2.25.12") == 1
    assert content.endswith(b"2.25.11")


def test_a_uid_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        objects.patch_uid(bytearray(b"2.25.1"), b"2.25.1", b"2.25.10")
