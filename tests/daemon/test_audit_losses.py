"""What could keep instances out of the audit trail: strangers who fill it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from lxml import etree

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import audit
from tests.support.objects import PATIENT_ID, instance
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TRANSFERRED, ALERT = "110104", "110126"
STRANGERS = 300


def told(spool: Path) -> dict[str, int]:
    """Each study that was transferred, and the number of its instances, over all messages."""
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
    """Each instance of the tests is a study of its own."""
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
    wait_until(lambda: told(spool).keys() == studies, what="the transfer is told")
    daemon.stop()
    alerts = of_kind(spool, ALERT)
    counts = [message.xpath("//ParticipantObjectDetail[@type='Alert Count']/@value") for message in alerts]
    assert sum(int(base64.b64decode(count[0])) if count else 1 for count in counts) == STRANGERS
    assert len(alerts) <= 2 * 2 * 2  # of each worker: the first, the rest of a minute; and a minute may end meanwhile
    assert not daemon.logged("audit messages lost")
