"""The audit trail of the running daemon: its messages, their delivery to a spool and to rsyslog, and outages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import audit
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.objects import PATIENT_ID, PATIENT_NAME, instance
from tests.support.raw_peer import associate_rq, store_message
from tests.support.syslog_server import SyslogServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

START, STOP, TRANSFERRED, ALERT = "110120", "110121", "110104", "110126"
DEADLINE = 30.0


def send(connect: Connect, daemon: Daemon, *, count: int = 1) -> None:
    peer = connect(daemon, calling="CT1")
    peer.associate()
    for _ in range(count):
        assert peer.store(instance()).status == 0
    peer.release()


def wait_spooled(folder: Path, count: int) -> list[etree._Element]:
    return wait_until(
        lambda: audit.spooled(folder),
        DEADLINE,
        until=lambda messages: len(messages) >= count,
        what=f"fewer than {count} messages are in the spool",
    )


def of_kind(messages: list[etree._Element], kind: str) -> list[etree._Element]:
    return [message for message in messages if audit.event(message) == kind]


def test_start_transfer_alert_and_stop_are_told_in_valid_messages(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 2, "ae_titles": ["DICOMD"]}, audit={"spool": str(spool)})
    send(connect, daemon, count=3)
    refused = connect(daemon)
    refused.send(associate_rq(called="NOBODY", calling="STRANGER"))
    assert refused.read_rejection() == (1, 1, 7)
    wait_spooled(spool, 3)
    daemon.stop()
    messages = audit.spooled(spool)
    assert [audit.event(message) for message in messages].count(START) == 1
    assert [audit.event(message) for message in messages].count(STOP) == 1
    (transfer,) = of_kind(messages, TRANSFERRED)
    assert transfer.xpath("ActiveParticipant[RoleIDCode/@csd-code='110153']/@UserID") == ["CT1"]
    assert transfer.xpath("//*[@ParticipantObjectTypeCode='1']/@ParticipantObjectID") == [PATIENT_ID]
    assert transfer.xpath("count(//SOPClass)") == 3  # each test instance is a separate study
    assert set(transfer.xpath("//SOPClass/@NumberOfInstances")) == {"1"}
    (alert,) = of_kind(messages, ALERT)
    assert alert.xpath("ActiveParticipant[RoleIDCode/@csd-code='110153']/@UserID") == ["STRANGER"]
    assert not [path for path in spool.iterdir() if PATIENT_NAME.encode() in path.read_bytes()]
    assert not [line for line in daemon.output if PATIENT_ID in line]


def test_an_instance_that_did_not_arrive_is_told_as_a_failure(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    daemon = start_daemon(audit={"spool": str(tmp_path / "spool")})
    peer = connect(daemon)
    peer.associate()
    peer.send(store_message(instance(size=100_000))[:60_000])
    peer.reset()
    messages = wait_spooled(tmp_path / "spool", 2)
    (transfer,) = of_kind(messages, TRANSFERRED)
    assert transfer.xpath("EventIdentification/@EventOutcomeIndicator") == ["4"]
    assert transfer.xpath("//*[@ParticipantObjectTypeCode='1']/@ParticipantObjectID") == [PATIENT_ID]


def test_a_spool_that_fails_stops_nobody_and_is_written_later(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    daemon = start_daemon(audit={"spool": str(tmp_path / "spool")})
    wait_spooled(tmp_path / "spool", 1)
    (tmp_path / "spool").rename(tmp_path / "away")
    (tmp_path / "spool").write_text("in the way")
    for _ in range(3):
        send(connect, daemon)
    daemon.wait_logged("cannot deliver audit messages yet", destination="spool")
    (tmp_path / "spool").unlink()
    daemon.wait_logged("audit messages are delivered again", deadline=2 * DEADLINE)
    assert len(of_kind(wait_spooled(tmp_path / "spool", 3), TRANSFERRED)) == 3
    assert daemon.metric("dicomd_audit_messages_total", result="lost") == 0


def test_a_reload_turns_it_on_and_off(start_daemon: StartDaemon, connect: Connect, tmp_path: Path) -> None:
    daemon = start_daemon()
    send(connect, daemon)
    daemon.configure(audit={"spool": str(tmp_path / "spool")})
    assert daemon.reload()["event"] == "config applied"
    send(connect, daemon)
    (transfer,) = wait_spooled(tmp_path / "spool", 1)
    assert transfer.xpath("//*[@ParticipantObjectTypeCode='1']/@ParticipantObjectID") == [PATIENT_ID]
    daemon.configure(audit={"spool": ""})
    assert daemon.reload()["event"] == "config applied"
    send(connect, daemon)
    daemon.stop()
    assert [audit.event(message) for message in audit.spooled(tmp_path / "spool")] == [TRANSFERRED]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority("Hospital")
    authority.write(tmp_path / "ca.pem")
    return authority


def syslog_server(tmp_path: Path, authority: Authority, name: str = "localhost") -> SyslogServer:
    folder = tmp_path / "rsyslog"
    folder.mkdir(exist_ok=True)
    return SyslogServer(folder, authority.issue("syslog", [name]), tmp_path / "ca.pem")


def settings(tmp_path: Path, server: SyslogServer, **more: str) -> dict[str, Any]:
    return {"syslog": f"localhost:{server.port}", "syslog_ca": str(tmp_path / "ca.pem"), **more}


@pytest.mark.system
@pytest.mark.timeout(240)
def test_rsyslog_takes_every_message_over_tls(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path, authority: Authority
) -> None:
    with syslog_server(tmp_path, authority) as server:
        daemon = start_daemon(audit=settings(tmp_path, server))
        send(connect, daemon)
        server.wait_for(2)
        daemon.stop()
        messages = server.wait_for(3)
    assert {message["facility"] for message in messages} == {"10"}
    assert {message["protocol"] for message in messages} == {"1"}
    assert {message["application"] for message in messages} == {"dicomd"}
    assert {message["kind"] for message in messages} == {"DICOM+RFC3881"}
    read = [audit.valid(message["text"].lstrip("\ufeff").encode()) for message in messages]
    assert sorted(audit.event(message) for message in read) == sorted([START, TRANSFERRED, STOP])
    times = [message.xpath("EventIdentification/@EventDateTime")[0] for message in read]
    assert [message["time"][:19] for message in messages] == [when[:19] for when in times]


@pytest.mark.system
@pytest.mark.timeout(240)
def test_what_was_spooled_while_rsyslog_was_away_reaches_it_later(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path, authority: Authority
) -> None:
    server, spool = syslog_server(tmp_path, authority), tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 2}, audit=settings(tmp_path, server, spool=str(spool)))
    for _ in range(3):
        send(connect, daemon)
    daemon.wait_logged("cannot deliver audit messages yet", destination="syslog", deadline=DEADLINE)
    wait_spooled(spool, 4)
    with server:
        assert len({message["text"] for message in server.wait_for(4)}) == 4
        wait_until(lambda: list(spool.glob("*.xml")), 2 * DEADLINE, equals=[], what="sent messages stay in the spool")
        daemon.stop()
    assert daemon.logged("audit messages lost") == []


@pytest.mark.system
@pytest.mark.timeout(240)
def test_a_server_that_cannot_prove_who_it_is_gets_nothing(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path, authority: Authority
) -> None:
    with syslog_server(tmp_path, authority, name="elsewhere.example.org") as server:
        daemon = start_daemon(audit=settings(tmp_path, server))
        send(connect, daemon)
        # the first attempts may be made before rsyslog listens
        daemon.wait_for(lambda record: record["event"] == "cannot deliver audit messages yet", deadline=DEADLINE)
        daemon.stop()
        assert server.messages() == []
    assert daemon.logged("audit messages lost")
