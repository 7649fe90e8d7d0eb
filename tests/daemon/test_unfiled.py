"""What can't be filed, with `storage.unfiled = "keep"`: answered with success, kept apart, and reported everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner

from dicomd.cli.main import main
from dicomd.cli.status import as_text
from dicomd.net.store_advice import KEPT_UNFILED
from tests.daemon.conftest import Connect, StartDaemon
from tests.support import audit, senders
from tests.support.daemon import Daemon
from tests.support.encoding import element
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    MR_IMAGE_STORAGE,
    PATIENT_ID,
    PATIENT_NAME,
    Instance,
    data_set,
    encode,
    instance,
    new_uid,
    write_file,
)
from tests.support.part10 import read_part10
from tests.support.raw_peer import RawPeer, store_message
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("dicomd")
    (folder / "spool").mkdir()
    overrides = {
        "dicomd": {"workers": 2},
        "storage": {"unfiled": "keep", "duplicates": "reject", "max_object_size": "64KiB"},
        "log": {"instances": False},
        "audit": {"spool": str(folder / "spool")},
    }
    with Daemon(folder, overrides) as daemon:
        yield daemon


def broken(kind: str) -> Instance:
    """An instance that can't be filed."""
    uid = new_uid()
    whole = data_set(uid)
    without = data_set(uid)
    if kind.startswith("no "):
        delattr(without, {"no study": "StudyInstanceUID", "no series": "SeriesInstanceUID"}[kind])
    encoded = {
        "empty": b"",
        "cut off": encode(whole)[:60],
        "garbage": b"\xff" * 3000,
        "File Meta Information": element(0x00020010, "UI", EXPLICIT_LITTLE) + encode(whole),
        "a Command Set": element(0x00000002, "UI", CT_IMAGE_STORAGE) + encode(whole),
        "another byte order": encode(whole, EXPLICIT_BIG),
    }
    return Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, encoded.get(kind, encode(without)))


REFUSALS = {
    "empty": "C000 Data Set is empty",
    "cut off": "C000 Data Set ends inside an element",
    "garbage": "C000 Data Set does not begin with an element",
    "File Meta Information": "C000 Data Set holds an element of File Meta Information",
    "a Command Set": "C000 Data Set holds an element of a Command Set",
    "another byte order": "C000 Data Set has another byte order than its Transfer Syntax",
    "no study": "C001 A UID needed for the path is missing or invalid",
    "no series": "C001 A UID needed for the path is missing or invalid",
}


def kept(daemon: Daemon, sent: Instance, number: int = 0) -> Path:
    """The path of an instance that was kept, after comparing the file with what was sent."""
    suffix = f"_{number}" if number else ""
    path = daemon.root / "unfiled" / f"{sent.sop_instance_uid}{suffix}.dcm"
    encoded = path.read_bytes()
    meta = 144 + int.from_bytes(encoded[140:144], "little")  # (0002,0000), which not every reader goes by
    assert encoded[meta:] == sent.data_set
    file = read_part10(path)
    assert (file.sop_class_uid, file.sop_instance_uid) == (sent.sop_class_uid, sent.sop_instance_uid)
    assert file.transfer_syntax == sent.transfer_syntax
    return path


def names(daemon: Daemon) -> list[str]:
    """The names of all files that are kept unfiled."""
    return sorted(path.name for path in (daemon.root / "unfiled").glob("*"))


@pytest.mark.parametrize("kind", REFUSALS)
def test_it_is_answered_with_success_kept_and_reported(keeping: Daemon, connect: Connect, kind: str) -> None:
    before = keeping.metric("dicomd_store_unfiled_total")
    counted = keeping.status()["counters"]["unfiled"]
    sent = broken(kind)
    peer = connect(keeping)
    peer.associate()
    assert peer.store(sent).status == 0
    assert peer.store(instance()).status == 0
    path = kept(keeping, sent)
    line = keeping.wait_logged("instance unfiled", dicom_sop_instance_uid=sent.sop_instance_uid)
    assert (line["level"], line["dicom_status"], line["dicom_bytes"]) == ("warning", "0000", len(sent.data_set))
    assert line["refusal"] == REFUSALS[kind]
    assert (line["path"], line["advice"]) == (str(path), KEPT_UNFILED)
    assert "duplicate" not in line
    keeping.wait_metric("dicomd_store_unfiled_total", before + 1)
    status = keeping.status()
    assert status["counters"]["unfiled"] == counted + 1
    shown = [refusal for refusal in status["refusals"] if refusal["why"] == REFUSALS[kind]]
    assert [(refusal["refused"], refusal["advice"]) for refusal in shown] == [("instance, kept unfiled", KEPT_UNFILED)]
    for text in (str(line), str(status), keeping.get("/")[1]):
        assert not any(secret in text for secret in (PATIENT_ID, *PATIENT_NAME.split("^")))
    peer.release()


def test_page_and_command_say_that_somebody_has_to_look(keeping: Daemon, connect: Connect) -> None:
    with connect(keeping) as peer:
        peer.associate()
        assert peer.store(broken("empty")).status == 0
        peer.release()
    shown = as_text(keeping.status() | {"peers": [], "certificates": []})
    assert f"since the start: look at what is in {keeping.root}/unfiled" in shown
    wait_until(lambda: keeping.get("/")[1], until=lambda page: "Kept unfiled" in page and "since the start" in page)


def test_a_second_one_is_the_same_file_if_it_is_identical_and_else_a_second_file(
    keeping: Daemon, connect: Connect
) -> None:
    """Whatever `storage.duplicates` says, which is "reject" here."""
    sent = broken("File Meta Information")
    other = replace(sent, data_set=sent.data_set[:-2] + b"!!")
    peer = connect(keeping)
    peer.associate()
    for one in (sent, other, sent, other):
        assert peer.store(one).status == 0
    kept(keeping, sent)
    kept(keeping, other, 1)
    assert len([name for name in names(keeping) if name.startswith(sent.sop_instance_uid)]) == 2

    def duplicates() -> list[str]:
        lines = keeping.logged("instance unfiled", dicom_sop_instance_uid=sent.sop_instance_uid)
        return [line.get("duplicate", "") for line in lines]

    wait_until(duplicates, equals=["", "kept-both", "identical", "identical"])
    peer.release()


def test_another_instance_s_data_set_is_refused(keeping: Daemon, connect: Connect) -> None:
    before = names(keeping)
    other = data_set(new_uid())
    faulty = data_set(new_uid())
    del faulty.StudyInstanceUID
    sent = [
        encode(other),
        encode(other, EXPLICIT_BIG),
        element(0x00020010, "UI", EXPLICIT_LITTLE) + encode(other),
        encode(other)[:-3],
        encode(faulty),
        encode(data_set(new_uid(), sop_class_uid=MR_IMAGE_STORAGE)),
    ]
    peer = connect(keeping)
    peer.associate()
    for encoded in sent:
        assert peer.store(Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encoded)).status == 0xA900
    assert peer.store(instance()).status == 0
    peer.release()
    assert names(keeping) == before


def test_a_wrong_request_and_a_limit_are_refused_as_ever(keeping: Daemon, connect: Connect) -> None:
    peer = connect(keeping)
    peer.associate()
    uid = "1.2.3/../../4"
    assert peer.store(replace(broken("empty"), sop_instance_uid=uid)).status == 0x0117
    assert peer.store(replace(broken("empty"), sop_class_uid=MR_IMAGE_STORAGE)).status == 0x0122
    large = replace(broken("garbage"), data_set=b"\xff" * (64 * 1024 + 2))
    assert peer.store(large).status == 0xA710
    peer.release()
    assert f"{large.sop_instance_uid}.dcm" not in names(keeping)
    assert keeping.unfinished_files() == []


def test_an_association_that_ends_in_the_middle_leaves_nothing(keeping: Daemon, connect: Connect) -> None:
    sent = broken("garbage")
    peer = connect(keeping)
    peer.associate()
    peer.send(store_message(sent)[:-100])
    peer.sock.close()
    keeping.wait_logged("instance incomplete", dicom_sop_instance_uid=sent.sop_instance_uid)
    assert f"{sent.sop_instance_uid}.dcm" not in names(keeping)
    keeping.wait_no_temporary_files()


@pytest.mark.parametrize("kind", ["no series", "empty"])
def test_it_is_audited_as_a_success(start_daemon: StartDaemon, connect: Connect, tmp_path: Path, kind: str) -> None:
    """With the patient and the study as far as they could be read."""
    spool = tmp_path / "spool"
    daemon = start_daemon(storage={"unfiled": "keep"}, audit={"spool": str(spool)})
    sent = broken(kind)
    peer = connect(daemon)
    peer.associate()
    assert peer.store(sent).status == 0
    peer.release()
    wait_until(lambda: len(audit.spooled(spool)), equals=2)
    (message,) = [message for message in audit.spooled(spool) if audit.event(message) == "110104"]
    assert message.xpath("EventIdentification/@EventOutcomeIndicator") == ["0"]
    assert message.xpath("EventIdentification/@EventActionCode") == ["C"]
    patient = message.xpath("//*[@ParticipantObjectTypeCode='1']/@ParticipantObjectID")
    assert (PATIENT_ID in patient) == (kind == "no series")


def test_verify_store_counts_them(keeping: Daemon, connect: Connect, tmp_path: Path) -> None:
    peer = connect(keeping)
    peer.associate()
    for kind in REFUSALS:
        assert peer.store(broken(kind)).status == 0
    peer.release()
    config = tmp_path / "dicomd.toml"
    config.write_text(f'[storage]\nroot = "{keeping.root}"\n')
    result = CliRunner().invoke(main, ["verify-store", "--config", str(config)])
    assert result.exit_code == 0, result.output
    count = len(names(keeping))
    assert count >= len(REFUSALS)
    assert f", {count} of them unfiled; 0 problems" in result.output


def test_a_real_sender_s_object_without_a_study(keeping: Daemon, tmp_path: Path) -> None:
    """Exports of hospitals' own programs look like that."""
    for name in ("dcmtk", "pynetdicom"):
        path = tmp_path / f"{name}.dcm"
        sent = write_file(path)
        ds = pydicom.dcmread(path)
        del ds.StudyInstanceUID
        ds.save_as(path)
        if name == "dcmtk":
            done = senders.run(senders.program("storescu"), *keeping.address, path)
        else:
            done = senders.pynetdicom("storescu", *keeping.address, path)
        assert done.exit_status == 0, done.output
        file = read_part10(keeping.root / "unfiled" / f"{sent.sop_instance_uid}.dcm")
        assert file.sop_instance_uid == sent.sop_instance_uid


def test_a_full_folder_refuses_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import dicomd.store.unfiled\ndicomd.store.unfiled.MOST = 2\n")
    daemon = Daemon(tmp_path, {"dicomd": {"workers": 1}, "storage": {"unfiled": "keep"}})
    daemon.environment["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parents[2]}"
    with daemon, RawPeer(daemon.address) as peer:
        peer.associate()
        for status in (0, 0, 0xC000):
            last = broken("empty")
            assert peer.store(last).status == status
        assert peer.store(instance()).status == 0
        peer.release()
        line = daemon.wait_logged("store failed", dicom_sop_instance_uid=last.sop_instance_uid)
        assert line["advice"] == "the folder unfiled in the store is full: look at what is in it, and move it elsewhere"
        daemon.wait_metric("dicomd_limit_hits_total", 1, limit="unfiled")
        assert len(names(daemon)) == 2


def test_a_reload_begins_and_ends_it(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon()
    before, during, after = broken("no study"), broken("no study"), broken("no study")

    def answer(sent: Instance) -> int:
        with connect(daemon) as peer:
            peer.associate()
            status = peer.store(sent).status
            peer.release()
        return status

    assert daemon.metric("dicomd_store_unfiled_total") == 0
    assert answer(before) == 0xC001
    daemon.configure(storage={"unfiled": "keep"})
    assert daemon.reload()["event"] == "config applied"
    assert answer(during) == 0
    kept(daemon, during)
    daemon.configure(storage={"unfiled": "refuse"})
    assert daemon.reload()["event"] == "config applied"
    assert answer(after) == 0xC001
    kept(daemon, during)
    assert names(daemon) == [f"{during.sop_instance_uid}.dcm"]
    daemon.wait_metric("dicomd_store_unfiled_total", 1)
