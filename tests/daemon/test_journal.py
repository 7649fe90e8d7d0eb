"""The daemon with a journal in place of journald: the fields it gets, and senders while the journal is stuck."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.journal import Journal, launcher, tell
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, instance
from tests.support.raw_peer import RawPeer, associate_rq

pytestmark = [pytest.mark.root]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "journal"
    found.mkdir()
    return found


@pytest.fixture
def logged(folder: Path, tmp_path: Path) -> Iterator[tuple[Daemon, Journal]]:
    daemon = Daemon(
        tmp_path, {"dicomd": {"ae_titles": ["DICOMD"], "workers": 1}, "log": {"format": "journald", "level": "info"}}
    )
    daemon.launcher = launcher(folder)
    with Journal(folder, tell(daemon)) as journal, daemon:
        yield daemon, journal


def test_the_fields_are_those_of_the_contract(logged: tuple[Daemon, Journal]) -> None:
    daemon, journal = logged
    sent = instance(size=4000)
    with RawPeer(daemon.address, calling="CT1") as peer:
        peer.associate()
        assert peer.store(sent).status == 0
        peer.release()
    with RawPeer(daemon.address) as rejected:
        rejected.send(associate_rq(called="OTHER", calling="MR1"))
        rejected.read_rejection()
    daemon.wait_logged("association rejected")
    daemon.wait_logged("association ended")
    entries = {entry["MESSAGE_ID"]: entry for entry in journal.entries if "MESSAGE_ID" in entry}
    stored = entries["b2f4d30132e747a78993ad35c073b0fd"]
    expected = {
        "DICOM_PEER": "unknown",
        "DICOM_PEER_ADDRESS": "127.0.0.1",
        "DICOM_CALLING_AET": "CT1",
        "DICOM_CALLED_AET": "DICOMD",
        "DICOM_SOP_CLASS_UID": CT_IMAGE_STORAGE,
        "DICOM_SOP_INSTANCE_UID": sent.sop_instance_uid,
        "DICOM_TRANSFER_SYNTAX_UID": EXPLICIT_LITTLE,
        "DICOM_STATUS": "0000",
        "DICOM_BYTES": str(len(sent.data_set)),
        "DICOMD_WORKER": "0",
        "DICOMD_GENERATION": "1",
        "PRIORITY": "6",
    }
    assert expected.items() <= stored.items()
    assert int(stored["DICOM_DURATION_USEC"]) > 0
    ended = entries["29e06ec0c8f743a7835cb5f8f5fb2872"]
    assert ended["DICOM_ASSOCIATION_ID"] == stored["DICOM_ASSOCIATION_ID"]
    message = entries["e70ed4f3ba9d436b8f3aaef4f6f5bafa"]["MESSAGE"]
    for told in ("calling_aet=MR1", "called_aet=OTHER", "add it there", "name=CT Image Storage", "would be accepted"):
        assert told in message
    assert daemon.output == [line for line in daemon.output if line.startswith("{")], "some output bypassed the journal"


def test_a_journal_that_stands_still_stops_no_sender(logged: tuple[Daemon, Journal]) -> None:
    daemon, journal = logged
    journal.stand_still()
    with RawPeer(daemon.address) as peer:
        peer.associate()
        for _ in range(1000):  # more than the queue of a datagram socket holds
            assert peer.store(instance(size=100)).status == 0
        assert daemon.ready()
        assert daemon.metric("dicomd_log_records_lost_total") > 0
        journal.go_on()
        assert peer.store(instance(size=100)).status == 0
        peer.release()
    daemon.wait_logged("association ended")
    assert any(entry["MESSAGE"].startswith("log lines lost count=") for entry in journal.entries)
