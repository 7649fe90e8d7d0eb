"""Instances must not be missing from the audit trail, even if strangers flood it or processes are killed."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from lxml import etree

from tests.crash.senders import Senders
from tests.daemon.conftest import Connect, StartDaemon
from tests.support import audit
from tests.support.daemon import Daemon
from tests.support.objects import PATIENT_ID, instance
from tests.support.processes import exists
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TRANSFERRED, ALERT = "110104", "110126"
STRANGERS = 300


def told(spool: Path) -> dict[str, int]:
    """Each study reported as transferred, with the number of its instances summed over all messages."""
    found: dict[str, int] = {}
    for message in of_kind(spool, TRANSFERRED):
        assert message.xpath("//*[@ParticipantObjectTypeCode='1']/@ParticipantObjectID") == [PATIENT_ID]
        for study in message.xpath("ParticipantObjectIdentification[@ParticipantObjectTypeCode='2']"):
            uid = str(study.get("ParticipantObjectID"))
            found[uid] = found.get(uid, 0) + sum(map(int, study.xpath("*/SOPClass/@NumberOfInstances")))
    return found


def of_kind(spool: Path, kind: str) -> list[etree._Element]:
    return [message for message in audit.spooled(spool) if audit.event(message) == kind]


def study_of(sop_instance_uid: str) -> str:
    """The study of an instance: each test instance is a separate one."""
    return f"{sop_instance_uid}.1"[-64:]


def store(peer: RawPeer, count: int) -> set[str]:
    """Store instances; return their studies."""
    sent = [instance() for _ in range(count)]
    for each in sent:
        assert peer.store(each).status == 0
    return {study_of(each.sop_instance_uid) for each in sent}


def test_a_stranger_who_tries_again_and_again_is_few_messages_and_a_count(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(
        dicomd={"workers": 2}, peers=[{"name": "ct1", "ae_titles": ["CT1"]}], audit={"spool": str(spool)}
    )

    def knock() -> None:
        with RawPeer(daemon.address) as peer:
            peer.send(associate_rq(calling="STRANGER"))
            assert peer.read_rejection() == (1, 1, 3)

    for _ in range(STRANGERS):
        knock()
    peer = connect(daemon, calling="CT1")
    peer.associate()
    studies = store(peer, 2)
    peer.release()
    wait_until(lambda: told(spool).keys(), equals=studies, what="the transfer is not reported")
    daemon.stop()
    alerts = of_kind(spool, ALERT)
    counts = [message.xpath("//ParticipantObjectDetail[@type='Alert Count']/@value") for message in alerts]
    assert sum(int(base64.b64decode(count[0])) if count else 1 for count in counts) == STRANGERS
    assert len(alerts) <= 2 * 2 * 2  # per worker the first, and the rest of a minute, of which two may be touched
    assert not daemon.logged("audit messages lost")


def serving(daemon: Daemon) -> list[int]:
    """Ready workers; one that is starting has no pid yet."""

    def ready() -> list[int]:
        return [pid for pid, state in daemon.worker_pids().items() if state == "ready" and pid]

    return wait_until(ready, what="no worker is ready")


def open_association(daemon: Daemon, connect: Connect) -> RawPeer:
    peer = connect(daemon, calling="CT1")
    peer.associate()
    return peer


def test_instances_of_a_killed_worker_are_audited(start_daemon: StartDaemon, connect: Connect, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 2}, audit={"spool": str(spool)})
    studies = set[str]()
    for _ in range(4):
        studies |= store(open_association(daemon, connect), 5)
    for pid in serving(daemon):
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: told(spool), equals=dict.fromkeys(studies, 1), what="an instance of a dead worker is not reported"
    )
    wait_until(
        lambda: list((daemon.root / ".dicomd" / "audit").glob("*-*")), equals=[], what="the journal is not removed"
    )


def test_an_old_generation_s_worker_that_is_killed_is_told_by_those_that_live(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 1}, audit={"spool": str(spool)})
    studies = store(open_association(daemon, connect), 3)
    assert daemon.reload()["event"] == "config applied"
    (old,) = [pid for pid, state in daemon.worker_pids().items() if state == "draining"]
    os.kill(old, signal.SIGKILL)  # it is not replaced
    wait_until(
        lambda: told(spool), equals=dict.fromkeys(studies, 1), what="an instance of the dead worker is not reported"
    )


def test_a_supervisor_that_is_killed_costs_no_message(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "2s"}, audit={"spool": str(spool)})
    peer = open_association(daemon, connect)
    studies = store(peer, 3)
    workers = serving(daemon)
    os.kill(daemon.pid, signal.SIGKILL)
    peer.read_abort()
    wait_until(lambda: told(spool), equals=dict.fromkeys(studies, 1), what="the worker's last message is missing")
    wait_until(lambda: [pid for pid in workers if exists(pid)], equals=[], what="workers are still running")


@pytest.mark.parametrize("spooled", [True, False], ids=["spool", "syslog"])
def test_when_everything_is_killed_the_next_start_tells(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path, spooled: bool
) -> None:
    spool = tmp_path / "spool"
    # without a spool, use a server that doesn't exist, so that no message has left the process
    daemon = start_daemon(dicomd={"workers": 2}, audit={"spool": str(spool)} if spooled else {"syslog": "127.0.0.1:1"})
    peers = [open_association(daemon, connect) for _ in range(3)]
    studies = set[str]().union(*(store(peer, 3) for peer in peers))
    if not spooled:
        peers.pop().release()  # its message is waiting for the server
    daemon.kill()
    daemon.configure(audit={"spool": str(spool), "syslog": ""})
    daemon.start()
    wait_until(lambda: told(spool), equals=dict.fromkeys(studies, 1), what="a dead process's instance is not reported")
    assert not list((daemon.root / ".dicomd" / "audit").glob("*-*"))


def test_what_a_stop_finds_undelivered_is_told_by_the_next_start(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 1}, audit={"syslog": "127.0.0.1:1"})
    peer = open_association(daemon, connect)
    studies = store(peer, 3)
    peer.release()
    daemon.stop()
    assert daemon.logged("audit messages will be delivered after the next start")
    daemon.configure(audit={"spool": str(spool), "syslog": ""})
    daemon.start()
    wait_until(lambda: told(spool), equals=dict.fromkeys(studies, 1), what="a waiting message is not delivered")


@pytest.mark.parametrize("operations", [1, 8])
def test_workers_that_are_killed_all_the_time_lose_no_instance(
    start_daemon: StartDaemon, tmp_path: Path, operations: int
) -> None:
    spool = tmp_path / "spool"
    daemon = start_daemon(dicomd={"workers": 2}, audit={"spool": str(spool)})
    acknowledged = threading.Semaphore(0)
    with Senders(
        lambda: daemon.address,
        seed=1,
        count=4,
        told=lambda _uid: acknowledged.release(),
        operations=operations,
    ) as senders:
        for _ in range(6):
            for _ in range(20):
                assert acknowledged.acquire(timeout=60)
            with contextlib.suppress(ProcessLookupError):  # killed in the previous round, but not yet noticed
                os.kill(serving(daemon)[0], signal.SIGKILL)
    studies = {path.stem: path.parent.parent.name for path in daemon.paths()}
    expected = Counter(studies[uid] for uid in senders.ledger.acknowledged)
    wait_until(
        lambda: all(told(spool).get(study, 0) >= count for study, count in expected.items()),
        what="an acknowledged instance is in no message",
        pause=0.2,
    )
    assert told(spool).keys() <= set(studies.values())
