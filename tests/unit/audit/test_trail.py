"""Delivery to the spool is bounded, retried and counted, and never blocks the threads that record."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dicomd.audit import alerts, delivery, spool, trail
from dicomd.audit.delivery import Forwarding
from dicomd.audit.events import ApplicationActivity, Node, SecurityAlert, now
from dicomd.audit.journal import Journal
from dicomd.audit.messages import Rendered, Reporter, render
from dicomd.audit.spool import Spool
from dicomd.audit.syslog import SyslogServer
from dicomd.audit.trail import AuditTrail
from dicomd.audit.transfers import MOST_ENTRIES, AssociationAudit
from dicomd.telemetry.metrics import Metrics
from tests.support.audit import event, spooled
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("metric_files")

DEADLINE = 30.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), version="test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(delivery, "_LONGEST_PAUSE", 0.05)


@pytest.fixture
def ending() -> Iterator[list[AuditTrail]]:
    trails: list[AuditTrail] = []
    yield trails
    for one in trails:
        one.end(10)


def counted(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("dicomd_audit_messages_total", {"result": result}) or 0.0


def started() -> ApplicationActivity:
    return ApplicationActivity(now(), started=True)


def test_an_event_becomes_a_file_in_the_spool(tmp_path: Path, metrics: Metrics) -> None:
    audit = AuditTrail(metrics, spool=tmp_path / "spool")
    audit.start()
    audit.record(started())
    audit.record(SecurityAlert(now(), Node("X", "10.0.0.1"), "no"))
    audit.end(10)
    assert [event(root) for root in spooled(tmp_path / "spool")] == ["110120", "110126"]
    assert counted(metrics, "spooled") == 2
    assert counted(metrics, "lost") == 0
    assert {path.suffix for path in (tmp_path / "spool").iterdir()} == {".xml"}


@pytest.mark.root
def test_a_message_has_the_group_of_a_folder_that_hands_it_on_and_nobody_else_reads_it(
    tmp_path: Path, metrics: Metrics
) -> None:
    auditors = 4711
    folder = tmp_path / "spool"
    folder.mkdir()
    os.chown(folder, -1, auditors)
    folder.chmod(0o2750)
    audit = AuditTrail(metrics, spool=folder)
    audit.start()
    audit.record(started())
    audit.end(10)
    (message,) = folder.glob("*.xml")
    assert (message.stat().st_gid, message.stat().st_mode & 0o777) == (auditors, 0o640)


def test_a_spool_that_cannot_be_written_is_tried_again(
    tmp_path: Path, metrics: Metrics, ending: list[AuditTrail]
) -> None:
    (tmp_path / "spool").write_text("in the way")
    audit = AuditTrail(metrics, spool=tmp_path / "spool")
    ending.append(audit)
    audit.start()
    for _ in range(250):
        audit.record(started())
    (tmp_path / "spool").unlink()
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=250)
    assert len(spooled(tmp_path / "spool")) == 250
    assert counted(metrics, "lost") == 0


def alert(number: int) -> SecurityAlert:
    """An alert about host number `number`."""
    return SecurityAlert(now(), Node("X", f"10.0.{number // 256}.{number % 256}"), "no")


def test_what_finds_no_place_is_lost_and_counted_at_once(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "MOST_WAITING", 40)
    audit = AuditTrail(metrics, spool=tmp_path)  # not started, so that nothing leaves the queues
    for number in range(20):
        audit.record(alert(number))
    assert counted(metrics, "lost") == 10  # alerts may use a quarter of the queue
    for _ in range(40):
        audit.record(started())
    assert counted(metrics, "lost") == 20  # the rest is reserved for others


def test_alerts_that_fill_their_part_of_the_spool_leave_the_rest_to_others(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, ending: list[AuditTrail]
) -> None:
    monkeypatch.setattr(spool, "MOST_MESSAGES", 40)
    audit = AuditTrail(metrics, spool=tmp_path)
    ending.append(audit)
    audit.start()
    for number in range(25):
        audit.record(alert(number))
    wait_until(lambda: counted(metrics, "lost"), DEADLINE, equals=15)
    for _ in range(30):
        audit.record(started())
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=40)
    kinds = [event(root) for root in spooled(tmp_path)]
    assert (kinds.count("110126"), kinds.count("110120")) == (10, 30)
    for path in tmp_path.glob("*-8.xml"):
        path.unlink()
    monkeypatch.setattr(spool, "_FULL_LASTS", 0.0)  # as if that second had passed
    audit.record(alert(100))
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=41)
    assert counted(metrics, "lost") == 15


def test_processes_that_write_at_once_see_each_other_s_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_MESSAGES", 400)
    spools = [Spool(tmp_path) for _ in range(4)]
    refused: list[Rendered] = []
    for number in range(100):
        for each in spools:
            each.put([render(alert(number), Reporter("h", os.getpid()))._replace(timestamp=timestamp())], refused)
    found = len(list(tmp_path.glob("*.xml")))
    assert found + len(refused) == 400
    assert found <= 100 + 4 * 5


def timestamp() -> str:
    """A timestamp that no other message has."""
    return now().isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_repetitions_are_one_message(tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "MERGED_FOR", 0.5)
    audit = AuditTrail(metrics, spool=tmp_path)
    for _ in range(100):
        audit.record(alert(1))
    audit.start()
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=2)
    for _ in range(3):
        audit.record(alert(1))
    audit.end(10)  # flushes the alerts that were being merged
    told = [root.xpath("//ParticipantObjectDetail[@type='Alert Count']/@value") for root in spooled(tmp_path)]
    counts = [int(base64.b64decode(value[0])) if value else 1 for value in told]
    assert sum(counts) == 103
    assert len(counts) <= 4
    assert counted(metrics, "lost") == 0


def test_what_is_merged_is_counted_where_it_is_lost(metrics: Metrics) -> None:
    audit = AuditTrail(metrics, server=SyslogServer("127.0.0.1", 1))
    audit.start()
    for _ in range(10):
        audit.record(alert(1))
    audit.end(10)
    assert counted(metrics, "lost") == 10


def test_a_full_spool_takes_no_more(tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_MESSAGES", 3)
    audit = AuditTrail(metrics, spool=tmp_path)
    audit.start()
    for _ in range(3):
        audit.record(started())
        wait_until(lambda: counted(metrics, "spooled") == len(list(tmp_path.glob("*.xml"))) > 0, DEADLINE)
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=3)
    audit.record(started())
    audit.end(10)
    assert len(spooled(tmp_path)) == 3
    assert counted(metrics, "lost") == 1


def test_a_server_that_is_not_there_holds_up_nothing_and_the_spool_keeps(tmp_path: Path, metrics: Metrics) -> None:
    audit = AuditTrail(metrics, spool=tmp_path, server=SyslogServer("127.0.0.1", 1))
    audit.start()
    audit.record(started())
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=1)
    audit.end(10)
    assert len(spooled(tmp_path)) == 1
    assert counted(metrics, "sent") == counted(metrics, "lost") == 0


def test_without_a_spool_what_the_server_did_not_get_is_lost_at_the_end(metrics: Metrics) -> None:
    audit = AuditTrail(metrics, server=SyslogServer("127.0.0.1", 1))
    audit.start()
    for _ in range(3):
        audit.record(started())
    audit.end(10)
    assert counted(metrics, "lost") == 3


def test_one_process_sends_on_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    assert first.claim()
    assert first.claim()
    assert not second.claim()
    first.release()
    assert second.claim()
    second.release()
    (tmp_path / "notes.xml").write_text("not ours")
    message = render(started(), Reporter("h", os.getpid()))
    first.put([message], [])
    ((path, read),) = first.read(first.names(), [])
    assert read == message
    first.remove([path])
    assert first.names() == []
    assert (tmp_path / "notes.xml").exists()


def transfer_one_instance(audit: AuditTrail) -> None:
    """Have the trail audit an Association over which one instance was stored."""
    association = AssociationAudit(audit.record, "10.0.0.1", audit.journal)
    association.instance(b"P", b"1.2", "1.2.840.10008.5.1.4.1.1.2", "C", stored=True)
    association.ended()


class ReceivingConnection:
    """A stand-in for a `SyslogConnection` whose server accepts everything."""

    def __init__(self) -> None:
        self.received: list[Rendered] = []

    def send(self, messages: list[Rendered]) -> None:
        self.received += messages

    def close(self) -> None:
        """Do nothing, since nothing is open."""


def test_a_message_that_cannot_be_read_holds_up_no_other(tmp_path: Path, metrics: Metrics) -> None:
    messages = [render(started(), Reporter("h", os.getpid())) for _ in range(3)]
    Spool(tmp_path).put(list(messages), [])
    oldest = min(tmp_path.glob("*.xml"))
    oldest.unlink()
    oldest.mkdir()  # so that reading fails for root, too
    connection, over = ReceivingConnection(), threading.Event()
    forwarding = Forwarding(Spool(tmp_path), connection, metrics, over)  # type: ignore[arg-type]
    thread = threading.Thread(target=forwarding.run)
    thread.start()
    wait_until(lambda: len(connection.received), DEADLINE, equals=2)
    over.set()
    thread.join()
    assert list(tmp_path.glob("*.xml")) == [oldest]


def test_a_journal_that_hangs_holds_up_no_message(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is in the store, whose file system may hang while the spool's does not."""
    goes_on = threading.Event()
    monkeypatch.setattr(Journal, "tend", lambda self, seconds: not goes_on.wait(DEADLINE))
    audit = AuditTrail(metrics, spool=tmp_path / "spool", journal=tmp_path / "journal")
    audit.start()
    transfer_one_instance(audit)
    wait_until(lambda: counted(metrics, "spooled"), DEADLINE, equals=1)
    audit.end(1)
    goes_on.set()


def test_what_is_told_leaves_the_journal(tmp_path: Path, metrics: Metrics) -> None:
    audit = AuditTrail(metrics, spool=tmp_path / "spool", journal=tmp_path / "journal")
    audit.start()
    transfer_one_instance(audit)
    audit.end(10)
    assert counted(metrics, "spooled") == 1
    assert list((tmp_path / "journal").iterdir()) == []


def test_what_finds_no_place_is_counted_and_leaves_the_journal(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "MOST_WAITING", 0)
    audit = AuditTrail(metrics, spool=tmp_path / "spool", journal=tmp_path / "journal")
    audit.start()
    transfer_one_instance(audit)
    audit.end(10)
    assert counted(metrics, "lost") == 1
    assert list((tmp_path / "journal").iterdir()) == []


def test_what_dead_processes_left_waits_in_the_journal_for_room(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may yield as many messages as it has entries, each for another patient."""
    monkeypatch.setattr(trail, "MOST_WAITING", 400)
    monkeypatch.setattr(trail, "RECOVER_EVERY", 0.01)
    folder = tmp_path / "journal"
    dead = Journal(folder, lambda error: None)
    for _ in range(20):
        association = AssociationAudit(lambda event: None, "10.0.0.1", dead)
        for patient in range(MOST_ENTRIES - 1):
            association.instance(b"%d" % patient, b"1.2", "1.2.840.10008.5.1.4.1.1.2", "C", stored=True)
    dead.close()
    audit = AuditTrail(metrics, spool=tmp_path / "spool", journal=folder)
    audit.start()
    wait_until(lambda: counted(metrics, "spooled") + counted(metrics, "lost"), DEADLINE, equals=20 * (MOST_ENTRIES - 1))
    audit.end(10)
    assert counted(metrics, "lost") == 0
    assert list(folder.iterdir()) == []
