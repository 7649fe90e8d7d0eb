"""A folder for each AE Title, peer, modality or day: real senders, a reload, and what is sent again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import senders
from tests.support.daemon import Daemon
from tests.support.objects import Instance, instance, write_file
from tests.support.raw_peer import RawPeer, store_message

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

BY_TITLES = "{CalledAETitle}/{CallingAETitle}/{SOPInstanceUID}.dcm"
Send = Callable[[Daemon, Path, str, str], senders.Run]


def dicomd(daemon: Daemon, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of dicomd's with the daemon's configuration."""
    arguments = [sys.executable, "-m", "dicomd", command, "--config", str(daemon.config_path)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)


def places(daemon: Daemon) -> list[str]:
    return [str(path.relative_to(daemon.root)) for path in daemon.paths()]


def status_of(peer: RawPeer, sent: Instance) -> str:
    status = f"{peer.store(sent).status:04X}"
    peer.release()
    return status


def with_dcmtk(daemon: Daemon, file: Path, calling: str, called: str) -> senders.Run:
    program = senders.program("storescu")
    return senders.run(program, "-aet", calling, "-aec", called, daemon.host, daemon.port, file)


def with_dcmsend(daemon: Daemon, file: Path, calling: str, called: str) -> senders.Run:
    program = senders.program("dcmsend")
    return senders.run(program, "-aet", calling, "-aec", called, daemon.host, daemon.port, file)


def with_gdcm(daemon: Daemon, file: Path, calling: str, called: str) -> senders.Run:
    options = ("--store", "--aetitle", calling, "--call", called, "-i", file)
    return senders.gdcmscu(daemon.host, daemon.port, *options)


def with_pynetdicom(daemon: Daemon, file: Path, calling: str, called: str) -> senders.Run:
    options = ("-cx", "-aet", calling, "-aec", called)
    return senders.pynetdicom("storescu", daemon.host, daemon.port, file, *options)


@pytest.mark.system
@pytest.mark.parametrize("send", [with_dcmtk, with_dcmsend, with_gdcm, with_pynetdicom])
def test_each_ae_title_on_one_port_has_its_own_folder(start_daemon: StartDaemon, tmp_path: Path, send: Send) -> None:
    daemon = start_daemon(storage={"layout": BY_TITLES})
    expected = set()
    for called, calling, folder in (
        ("ARCHIVE", "CT1", "ARCHIVE/CT1"),
        ("RESEARCH", "CT1", "RESEARCH/CT1"),
        ("RESEARCH", "MR 2", "RESEARCH/MR%202"),
        ("../.dicomd", "a/b", "%2E.%2F.dicomd/a%2Fb"),
    ):
        sent = write_file(tmp_path / "sent.dcm")
        done = send(daemon, tmp_path / "sent.dcm", calling, called)
        assert done.exit_status == 0, done.output
        (file,) = daemon.stored(sent.sop_instance_uid)
        assert (file.data_set, file.text(0x00020016), file.text(0x00020018)) == (sent.data_set, calling, called)
        expected.add(f"{folder}/{sent.sop_instance_uid}.dcm")
    assert set(places(daemon)) == expected
    verified = dicomd(daemon, "verify-store")
    assert verified.returncode == 0, verified.stdout


def test_peers_modalities_and_dates(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(
        storage={"layout": "{Peer}/{ReceivedDate}/{StudyDate}/{Modality}_{SOPInstanceUID}.dcm"},
        peers=[{"name": "ct-1", "ae_titles": ["CT1"]}],
        access={"mode": "audit"},
    )
    sent = instance()
    others = replace(sent, data_set=sent.data_set.replace(b"20240229", b"20240230").replace(b"CS\2\0CT", b"CS\2\0ct"))
    began = time.strftime("%Y%m%d", time.gmtime())
    for calling, what in (("CT1", sent), ("STRANGER", others)):
        peer = connect(daemon)
        peer.associate(calling=calling)
        assert status_of(peer, what) == "0000"
    ended = time.strftime("%Y%m%d", time.gmtime())
    parts = [Path(place).parts for place in places(daemon)]
    name = f"{sent.sop_instance_uid}.dcm"
    assert [(peer, *rest) for peer, _, *rest in parts] == [
        ("ct-1", "20240229", f"CT_{name}"),
        ("unknown", "none", f"none_{name}"),
    ]
    assert {received for _, received, *_ in parts} <= {began, ended}
    assert "Not checked, as files don't tell them: {Peer} and {ReceivedDate}" in dicomd(daemon, "verify-store").stdout


def test_a_reload_changes_the_layout_for_new_associations(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 1}, storage={"layout": "{SOPInstanceUID}.dcm"})
    first, second, third = instance(), instance(size=100_000), instance()
    old = connect(daemon)
    old.associate()
    assert old.store(first).status == 0
    message = store_message(second, message_id=2)
    old.send(message[:50_000])
    daemon.configure(storage={"layout": BY_TITLES})
    applied = daemon.reload()
    assert applied["event"] == "config applied"
    assert not applied.get("restart_pending")
    new = connect(daemon)
    new.associate(called="RESEARCH")
    assert status_of(new, third) == "0000"
    old.send(message[50_000:])
    assert old.read_message().status == 0
    old.release()
    assert set(places(daemon)) == {
        f"{first.sop_instance_uid}.dcm",
        f"{second.sop_instance_uid}.dcm",
        f"RESEARCH/RAWPEER/{third.sop_instance_uid}.dcm",
    }
    assert daemon.status()["store"]["layout"] == BY_TITLES
    assert "<code>{CalledAETitle}/{CallingAETitle}/{SOPInstanceUID}.dcm</code>" in daemon.get("/")[1]


@pytest.mark.parametrize(
    ("policy", "status", "in_archive"),
    [("keep-both", "0000", ["first", "second"]), ("replace", "0000", ["second"]), ("reject", "C010", ["first"])],
)
def test_duplicates_are_judged_in_each_folder_by_itself(
    start_daemon: StartDaemon, connect: Connect, policy: str, status: str, in_archive: list[str]
) -> None:
    daemon = start_daemon(storage={"layout": BY_TITLES, "duplicates": policy})
    first = instance()
    second = replace(first, data_set=first.data_set[:-1] + bytes([first.data_set[-1] ^ 1]))

    def send(called: str, sent: Instance) -> str:
        peer = connect(daemon)
        peer.associate(called=called)
        return status_of(peer, sent)

    assert [send("ARCHIVE", first), send("ARCHIVE", first), send("RESEARCH", first)] == ["0000"] * 3
    assert len(daemon.paths()) == 2  # the second was a success without another file, the third has its own
    assert send("ARCHIVE", second) == status
    found = [file.data_set for file in daemon.stored() if "ARCHIVE" in file.path.parts]
    kept = {"first": first.data_set, "second": second.data_set}
    assert sorted(found) == sorted(kept[name] for name in in_archive)
    (elsewhere,) = (file.data_set for file in daemon.stored() if "RESEARCH" in file.path.parts)
    assert elsewhere == first.data_set
    assert dicomd(daemon, "verify-store").returncode == 0


def test_a_layout_that_stores_again_what_is_sent_again_is_warned_about(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(storage={"layout": BY_TITLES})
    checked = dicomd(daemon, "check-config")
    assert checked.returncode == 0
    expected = (
        "storage.layout: an instance that is sent again with another {CalledAETitle} or {CallingAETitle} is stored"
    )
    assert expected in checked.stderr
    assert expected in "".join(str(record) for record in daemon.records)
