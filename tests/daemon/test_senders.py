"""Senders written by others, as installed: everything they send is stored exactly as sent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import senders, wire
from tests.support.comparison import assert_stored_as_sent
from tests.support.daemon import Daemon
from tests.support.objects import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MR_IMAGE_STORAGE,
    Instance,
    write_file,
)
from tests.support.pydicom_files import sample
from tests.support.relay import Relay
from tests.support.wire import Conversation

pytestmark = pytest.mark.system

UNCOMPRESSED = [
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
    "waveform_ecg.dcm",
    "liver_1frame.dcm",
    "chrKoreanMulti.dcm",
]
COMPRESSED = [
    "JPEG-lossy.dcm",
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "examples_ybr_color.dcm",
    "image_dfl.dcm",
]


def samples(names: list[str]) -> list[Path]:
    return [sample(name) for name in names]


def transfer_syntaxes(conversations: list[Conversation]) -> set[str]:
    return {talk.transfer_syntax(message) for talk in conversations for message in talk.stores}


def largest_pdu(conversation: Conversation) -> int:
    return max(len(pdu.body) for pdu in conversation.requestor_pdus if pdu.type == wire.P_DATA_TF)


def check(receiver: Daemon, relay: Relay, *, count: int, calling: str) -> list[Conversation]:
    """Assert that what the relay recorded is in the store, `count` C-STOREs in all; return the conversations."""
    talks = relay.conversations()
    assert sum(len(talk.stores) for talk in talks) == count
    assert_stored_as_sent(receiver, talks, calling=calling)
    return talks


class TestPynetdicomStorescu:
    def test_sends_files_of_many_kinds_in_the_contexts_they_need(self, receiver: Daemon, relay: Relay) -> None:
        files = samples(UNCOMPRESSED + COMPRESSED)
        done = senders.pynetdicom("storescu", *relay.address, *files, "-cx", "-v")
        assert done.exit_status == 0, done.output
        assert done.output.count("(Status: 0x0000 - Success)") == len(files), done.output
        talks = check(receiver, relay, count=len(files), calling="STORESCU")
        assert {"1.2.840.10008.1.2.4.90", DEFLATED, EXPLICIT_BIG} & transfer_syntaxes(talks)

    def test_sends_its_default_contexts_which_are_all_accepted(self, receiver: Daemon, relay: Relay) -> None:
        done = senders.pynetdicom("storescu", *relay.address, sample("CT_small.dcm"))
        assert done.exit_status == 0, done.output
        (talk,) = check(receiver, relay, count=1, calling="STORESCU")
        assert len(talk.contexts) == len(talk.abstract_syntaxes) > 100
        assert {context.result for context in talk.contexts.values()} == {0}

    def test_sends_a_folder(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        for number in range(20):
            write_file(tmp_path / f"{number}.dcm", size=70_000)
        done = senders.pynetdicom("storescu", *relay.address, tmp_path, "-cx", "-r")
        assert done.exit_status == 0, done.output
        check(receiver, relay, count=20, calling="STORESCU")


class TestStorescu:
    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            ("-xe", {EXPLICIT_LITTLE}),
            ("-xb", {EXPLICIT_BIG}),
            ("-xi", {IMPLICIT_LITTLE}),
            ("-x=", {EXPLICIT_LITTLE}),
            ("-xd", {DEFLATED}),
        ],
    )
    def test_converts_as_it_was_told_and_is_stored_as_it_converted(
        self, receiver: Daemon, relay: Relay, option: str, expected: set[str]
    ) -> None:
        files = samples([*UNCOMPRESSED, "image_dfl.dcm"])
        done = senders.run(senders.program("storescu"), option, "-R", *relay.address, *files)
        assert done.exit_status == 0, done.output
        # if another accepted context fits a file as it is, storescu uses that one
        found = transfer_syntaxes(check(receiver, relay, count=len(files), calling="STORESCU"))
        assert expected <= found
        assert option != "-xi" or found == {IMPLICIT_LITTLE}

    @pytest.mark.parametrize(
        ("option", "name"),
        [
            ("-xy", "JPEG-lossy.dcm"),
            ("-xs", "SC_rgb_jpeg_gdcm.dcm"),
            ("-xv", "MR_small_jp2klossless.dcm"),
            ("-xw", "JPEG2000.dcm"),
            ("-xt", "MR_small_jpeg_ls_lossless.dcm"),
            ("-xr", "MR_small_RLE.dcm"),
        ],
    )
    def test_sends_compressed_files_as_they_are(self, receiver: Daemon, relay: Relay, option: str, name: str) -> None:
        done = senders.run(senders.program("storescu"), option, *relay.address, sample(name))
        if option == "-xy" and done.exit_status:  # the file is extended JPEG, which DCMTK proposes with -xx
            done = senders.run(senders.program("storescu"), "-xx", *relay.address, sample(name))
        assert done.exit_status == 0, done.output
        talks = [talk for talk in relay.conversations() if talk.stores]
        assert_stored_as_sent(receiver, talks, calling="STORESCU")
        assert all(
            syntax.startswith(("1.2.840.10008.1.2.4", "1.2.840.10008.1.2.5")) for syntax in transfer_syntaxes(talks)
        )

    @pytest.mark.parametrize("size", [4096, 131072])
    def test_keeps_to_its_own_pdu_sizes(self, receiver: Daemon, relay: Relay, tmp_path: Path, size: int) -> None:
        file = tmp_path / "large.dcm"
        write_file(file, size=1_000_001)
        done = senders.run(senders.program("storescu"), "--max-pdu", size, "--max-send-pdu", size, *relay.address, file)
        assert done.exit_status == 0, done.output
        (talk,) = check(receiver, relay, count=1, calling="STORESCU")
        assert largest_pdu(talk) <= size
        assert all(len(pdu.body) <= size for pdu in talk.acceptor_pdus if pdu.type == wire.P_DATA_TF)

    def test_scans_folders_and_sends_the_same_again(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        for number in range(10):
            write_file(tmp_path / "deep" / f"{number}.dcm")
        done = senders.run(senders.program("storescu"), "+sd", "+r", "--repeat", 2, *relay.address, tmp_path)
        assert done.exit_status == 0, done.output
        assert (
            len({m.sop_instance_uid for t in check(receiver, relay, count=20, calling="STORESCU") for m in t.stores})
            == 10
        )

    def test_proposes_a_user_identity_which_is_passed_over(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        write_file(tmp_path / "a.dcm")
        done = senders.run(
            senders.program("storescu"), "-usr", "nobody", "-pwd", "secret", *relay.address, tmp_path / "a.dcm"
        )
        assert done.exit_status == 0, done.output
        (talk,) = check(receiver, relay, count=1, calling="STORESCU")
        assert 0x58 in wire.user_information(talk.requestor_pdus[0].body)
        assert 0x59 not in wire.user_information(talk.acceptor_pdus[0].body)

    def test_may_abort_instead_of_releasing(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        write_file(tmp_path / "a.dcm")
        senders.run(senders.program("storescu"), "--abort", *relay.address, tmp_path / "a.dcm")
        check(receiver, relay, count=1, calling="STORESCU")

    def test_sends_what_img2dcm_and_dump2dcm_made(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        made = [made_from_jpeg(tmp_path), made_from_dump(tmp_path)]
        done = senders.run(senders.program("storescu"), "-xy", *relay.address, *made)
        assert done.exit_status == 0, done.output
        check(receiver, relay, count=2, calling="STORESCU")


class TestDcmsend:
    def test_sends_files_of_many_kinds(self, receiver: Daemon, relay: Relay) -> None:
        files = samples(UNCOMPRESSED + COMPRESSED)
        done = senders.run(senders.program("dcmsend"), "--decompress-never", "--no-uid-checks", *relay.address, *files)
        assert done.exit_status == 0, done.output
        talks = check(receiver, relay, count=len(files), calling="DCMSEND")
        assert DEFLATED in transfer_syntaxes(talks)

    @pytest.mark.parametrize("size", [4096, 131072])
    def test_keeps_to_its_own_pdu_sizes(self, receiver: Daemon, relay: Relay, tmp_path: Path, size: int) -> None:
        for number in range(3):
            write_file(tmp_path / f"{number}.dcm", size=300_000)
        done = senders.run(senders.program("dcmsend"), "--max-send-pdu", size, "+sd", *relay.address, tmp_path)
        assert done.exit_status == 0, done.output
        assert all(largest_pdu(talk) <= size for talk in check(receiver, relay, count=3, calling="DCMSEND"))

    def test_sends_over_several_associations(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        write_file(tmp_path / "ct.dcm")
        write_file(tmp_path / "mr.dcm", sop_class_uid=MR_IMAGE_STORAGE)
        done = senders.run(senders.program("dcmsend"), "+ma", "+sd", *relay.address, tmp_path)
        assert done.exit_status == 0, done.output
        check(receiver, relay, count=2, calling="DCMSEND")


class TestGdcmscu:
    def test_sends_files(self, receiver: Daemon, relay: Relay) -> None:
        files = samples(["CT_small.dcm", "MR_small_implicit.dcm", "rtplan.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm"])
        for file in files:
            done = senders.gdcmscu(*relay.address, "--store", "--call", "DICOMD", "--aetitle", "GDCM", "-i", file)
            assert done.exit_status == 0, done.output
        check(receiver, relay, count=len(files), calling="GDCM")

    def test_sends_a_folder(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        for number in range(10):
            write_file(tmp_path / f"{number}.dcm", size=100_000)
        done = senders.gdcmscu(*relay.address, "--store", "--aetitle", "GDCM", "-i", tmp_path)
        assert done.exit_status == 0, done.output
        check(receiver, relay, count=10, calling="GDCM")


class TestDcmjsDimse:
    @pytest.mark.timeout(180)  # the first run installs dcmjs-dimse
    def test_sends_files(self, receiver: Daemon, relay: Relay, tmp_path: Path) -> None:
        made = [tmp_path / f"{number}.dcm" for number in range(5)]
        for file in made:
            write_file(file, size=200_000)
        files = [*made, *samples(["CT_small.dcm", "MR_small_implicit.dcm", "rtplan.dcm", "reportsi.dcm"])]
        done = senders.dcmjs_dimse(*relay.address, *files)
        assert done.exit_status == 0, done.output
        assert len([line for line in done.output.splitlines() if line.startswith("0000 ")]) == len(files)
        check(receiver, relay, count=len(files), calling="DCMJS")


class TestDicomdSend:
    def test_sends_a_folder_byte_for_byte_as_the_files_are(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        (tmp_path / "below").mkdir()
        made: list[Instance] = [write_file(tmp_path / "below" / f"{number}.dcm", size=90_000) for number in range(8)]
        for file in samples(["MR_small_bigendian.dcm", "JPEG2000.dcm", "image_dfl.dcm"]):
            shutil.copy(file, tmp_path)
        (tmp_path / "notes.txt").write_text("no DICOM")
        done = senders.dicomd("send", *relay.address, tmp_path)
        assert done.exit_status == 0, done.output
        assert "11 stored" in done.output
        assert "notes.txt" in done.output
        talks = check(receiver, relay, count=11, calling="DICOMD")
        sent = {message.sop_instance_uid: message.data_set for talk in talks for message in talk.stores}
        assert all(sent[instance.sop_instance_uid] == instance.data_set for instance in made)

    def test_fails_with_the_receivers_words_when_something_is_refused(self, receiver: Daemon, tmp_path: Path) -> None:
        write_file(tmp_path / "good.dcm")
        shutil.copy(sample("JPEGLSNearLossless_08.dcm"), tmp_path)
        done = senders.dicomd("send", *receiver.address, tmp_path)
        assert done.exit_status == 1
        assert "1 stored" in done.output
        assert "0xC001" in done.output, done.output


def made_from_jpeg(folder: Path) -> Path:
    """A Secondary Capture made from a JPEG file by img2dcm."""
    jpeg, made = folder / "frame.jpg", folder / "img2dcm.dcm"
    content = sample("SC_rgb_jpeg_dcmtk.dcm").read_bytes()
    start = content.index(b"\xff\xd8\xff")
    jpeg.write_bytes(content[start : content.rindex(b"\xff\xd9") + 2])
    done = senders.run(senders.program("img2dcm"), jpeg, made)
    assert done.exit_status == 0, done.output
    return made


def made_from_dump(folder: Path) -> Path:
    """A CT image with a private block and sequences of undefined length, made from a dump."""
    dump, made = folder / "ct.dump", folder / "dump2dcm.dcm"
    dump.write_text(
        """
(0008,0005) CS ISO_IR 192
(0008,0016) UI =CTImageStorage
(0008,0018) UI 1.2.826.0.1.3680043.10.1494.8.1
(0008,1140) SQ
(fffe,e000) na
(0008,1150) UI =CTImageStorage
(0008,1155) UI 1.2.826.0.1.3680043.10.1494.8.9
(fffe,e00d) na
(fffe,e0dd) na
(0009,0010) LO PRIVATE BLOCK
(0009,1001) LO something of the vendor's
(0010,0010) PN Nobody^Known
(0020,000d) UI 1.2.826.0.1.3680043.10.1494.8.2
(0020,000e) UI 1.2.826.0.1.3680043.10.1494.8.3
"""
    )
    done = senders.run(senders.program("dump2dcm"), "--generate-meta-info", dump, made)
    if done.exit_status:  # DCMTK before 3.6.6 has no long name for the option
        done = senders.run(senders.program("dump2dcm"), dump, made)
    assert done.exit_status == 0, done.output
    return made
