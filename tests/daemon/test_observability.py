"""What an operator sees: counts that equal the senders', one line per instance, and no patient data anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import senders, wire
from tests.support.daemon import Daemon, Record
from tests.support.encoding import p_data, pdu, pdv
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    EXPLICIT_LITTLE,
    MR_IMAGE_STORAGE,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Instance,
    data_set,
    encode,
    instance,
    new_uid,
    write_file,
)
from tests.support.raw_peer import A_ABORT_PDU, associate_rq, c_store_rq, store_message
from tests.support.relay import Relay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

ASSOCIATION_KEYS = {
    "dicom_association_id",
    "dicom_peer",
    "dicom_peer_address",
    "dicom_calling_aet",
    "dicom_called_aet",
    "dicom_bytes",
    "dicom_duration_usec",
    "dicomd_worker",
    "dicomd_generation",
}
INSTANCE_KEYS = ASSOCIATION_KEYS | {
    "dicom_sop_class_uid",
    "dicom_sop_instance_uid",
    "dicom_transfer_syntax_uid",
    "dicom_status",
}


def test_health_and_readiness(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    assert daemon.get("/-/healthy")[0] == 200
    assert daemon.get("/-/ready")[0] == 200
    assert daemon.get("/metrics")[0] == 200
    assert daemon.get("/nothing")[0] == 404


def test_known_label_sets_are_zero_from_the_start(start_daemon: StartDaemon) -> None:
    metrics = start_daemon().metrics()
    for outcome in ("released", "aborted_by_peer", "aborted_locally", "rejected", "timed_out", "connection_lost"):
        assert metrics["dicomd_associations_total", frozenset({("listener", "dicom"), ("outcome", outcome)})] == 0
    for status in ("0000", "A700", "A701", "A703", "A710", "A900", "C000", "C001", "C010", "C211"):
        labels = frozenset({("command", "C-STORE-RSP"), ("status", status)})
        assert metrics["dicomd_dimse_responses_total", labels] == 0
    assert metrics["dicomd_instances_stored_total", frozenset()] == 0
    assert metrics["dicomd_connections_total", frozenset({("listener", "dicom")})] == 0
    assert metrics["dicomd_associations_active", frozenset({("listener", "dicom")})] == 0
    assert metrics["dicomd_store_accepting", frozenset()] == 1
    assert metrics["dicomd_access_open", frozenset()] == 1
    assert metrics["dicomd_store_avail_bytes", frozenset()] > 0


def test_counts_equal_what_happened(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"ae_titles": ["DICOMD"]}, storage={"max_object_size": "64KiB"})
    good = [instance(size=1000) for _ in range(3)]
    received = 0

    released = connect(daemon)
    released.associate()
    assert daemon.metric("dicomd_associations_active", listener="dicom") == 1
    for one in (*good, good[0]):
        assert released.store(one).status == 0
        received += len(one.data_set)
    large = instance(size=100_000)
    other = Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(data_set(new_uid())))
    for one, status in ((large, 0xA710), (other, 0xA900)):
        assert released.store(one).status == status
    assert released.echo().status == 0
    assert released.echo().status == 0
    released.release()

    aborting = connect(daemon)
    aborting.associate()
    aborting.send(A_ABORT_PDU)
    aborting.read_end()

    aborted = connect(daemon)
    aborted.associate()
    aborted.send(pdu(0x42))
    aborted.read_abort()

    lost = connect(daemon)
    lost.associate()
    lost.send(store_message(instance(size=50_000))[:20_000])
    lost.reset()

    rejected = connect(daemon)
    rejected.send(associate_rq(called="OTHER"))
    rejected.read_rejection()
    rejected.sock.close()

    connect(daemon).sock.close()

    def expect(name: str, value: float, **labels: str) -> None:
        daemon.wait_metric(f"dicomd_{name}", value, **labels)

    expect("connections_total", 6, listener="dicom")
    for outcome, value in (
        ("released", 1),
        ("aborted_by_peer", 1),
        ("aborted_locally", 1),
        ("connection_lost", 1),
        ("rejected", 1),
        ("timed_out", 0),
    ):
        expect("associations_total", value, listener="dicom", outcome=outcome)
    expect("associations_rejected_total", 1, source="1", reason="7")
    expect("aborts_total", 1, direction="received", source="0", reason="0")
    expect("aborts_total", 1, direction="sent", source="2", reason="1")
    expect("dimse_responses_total", 4, command="C-STORE-RSP", status="0000")
    expect("dimse_responses_total", 1, command="C-STORE-RSP", status="A710")
    expect("dimse_responses_total", 1, command="C-STORE-RSP", status="A900")
    expect("dimse_responses_total", 2, command="C-ECHO-RSP", status="0000")
    expect("store_duplicates_total", 1, result="identical")
    expect("associations_active", 0, listener="dicom")
    assert daemon.metric("dicomd_instances_stored_total") in (3, 4)  # an identical duplicate succeeds without a file
    assert daemon.metric("dicomd_store_received_bytes_total") >= received


@pytest.mark.system
def test_counts_equal_what_real_senders_counted(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon()
    for number in range(25):
        write_file(tmp_path / f"{number}.dcm", size=30_000)
    with Relay(daemon.address) as relay:
        for name in ("storescu", "dcmsend"):
            assert (
                senders.run(senders.program(name), "+sd", "-aet", name.upper(), *relay.address, tmp_path).exit_status
                == 0
            )
        senders.pynetdicom("storescu", *relay.address, tmp_path, "-cx")
        talks = relay.conversations()
    stores = [message for talk in talks for message in talk.stores]
    assert len(stores) == 75
    wait_until(
        lambda: len(daemon.logged("association ended", outcome="released")), until=lambda count: count >= len(talks)
    )
    assert daemon.metric("dicomd_associations_total", listener="dicom", outcome="released") == len(talks)
    daemon.wait_metric("dicomd_dimse_responses_total", 75, command="C-STORE-RSP", status="0000")
    assert daemon.metric("dicomd_store_received_bytes_total") == sum(len(message.data_set or b"") for message in stores)
    assert daemon.metric("dicomd_store_duration_seconds_count") == 75
    assert len(daemon.logged("instance stored")) == 75
    assert len(daemon.logged("association ended", outcome="released")) == len(talks)
    assert {record["dicom_calling_aet"] for record in daemon.logged("association ended")} == {"STORESCU", "DCMSEND"}


def test_metrics_are_what_promtool_wants(start_daemon: StartDaemon) -> None:
    promtool = senders.program("promtool")
    text = start_daemon().get("/metrics")[1]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def ended(daemon: Daemon, calling: str) -> Record:
    """The only log line of an Association."""
    record = daemon.wait_logged("association ended", dicom_calling_aet=calling)
    assert len(daemon.logged("association ended", dicom_calling_aet=calling)) == 1
    return record


def test_one_line_an_instance_and_one_an_association(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(log={"level": "info"})
    sent = instance(size=5000)
    refused = Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(data_set(new_uid())))
    peer = connect(daemon, calling="CT SCANNER")
    peer.associate(called="ARCHIVE")
    peer.store(sent)
    peer.store(refused)
    peer.echo()
    peer.release()
    association = ended(daemon, "CT SCANNER")
    assert association.keys() >= ASSOCIATION_KEYS
    assert association["message_id"] == "29e06ec0c8f743a7835cb5f8f5fb2872"
    assert association["outcome"] == "released"
    assert association["dicom_called_aet"] == "ARCHIVE"
    assert association["dicom_peer_address"] == "127.0.0.1"
    (stored,) = daemon.logged("instance stored")
    assert stored.keys() >= INSTANCE_KEYS
    assert stored["message_id"] == "b2f4d30132e747a78993ad35c073b0fd"
    assert stored["dicom_sop_class_uid"] == CT_IMAGE_STORAGE
    assert stored["dicom_sop_instance_uid"] == sent.sop_instance_uid
    assert stored["dicom_transfer_syntax_uid"] == EXPLICIT_LITTLE
    assert stored["dicom_status"] == "0000"
    assert stored["dicom_bytes"] == len(sent.data_set)
    (failed,) = daemon.logged("store failed")
    assert failed.keys() >= INSTANCE_KEYS
    assert failed["message_id"] == "73142fd5a4444e19a6ac323951d4eed0"
    assert failed["dicom_status"] == "A900"
    assert failed["dicom_sop_instance_uid"] == refused.sop_instance_uid
    assert f"in the command {refused.sop_instance_uid}" in failed["advice"]
    assert {r["dicom_association_id"] for r in (association, stored, failed)} == {association["dicom_association_id"]}
    lines = [r for r in daemon.records if "dicom_association_id" in r]
    assert lines == [stored, failed, association] or sorted(map(str, lines)) == sorted(
        map(str, [stored, failed, association])
    )


def test_instance_lines_can_be_switched_off_but_failures_stay(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(log={"instances": False})
    peer = connect(daemon)
    peer.associate()
    assert peer.store(instance()).status == 0
    assert (
        peer.store(Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(data_set(new_uid())))).status == 0xA900
    )
    peer.release()
    ended(daemon, "RAWPEER")
    assert daemon.logged("instance stored") == []
    assert len(daemon.logged("store failed")) == 1


def test_a_rejection_is_one_line(start_daemon: StartDaemon, connect: Connect) -> None:
    """CONTRACT 7: the peer, the reason, the result that each proposed context would have got, and what to change."""
    daemon = start_daemon(dicomd={"ae_titles": ["DICOMD"]}, contexts={"transfer_syntaxes": ["uncompressed"]})
    jpeg = "1.2.840.10008.1.2.4.50"
    proposals = [
        (MR_IMAGE_STORAGE, [EXPLICIT_LITTLE, jpeg]),
        (CT_IMAGE_STORAGE, [jpeg]),
        (STUDY_ROOT_FIND, [EXPLICIT_LITTLE]),
        (VERIFICATION, [EXPLICIT_LITTLE]),
        (MR_IMAGE_STORAGE, [f"1.2.3.{number}" for number in range(100)]),
    ]
    peer = connect(daemon)
    peer.send(associate_rq(proposals, called="WRONG", calling="MR1"))
    assert peer.read_rejection() == (1, 1, 7)
    peer.sock.close()
    record = daemon.wait_logged("association rejected")
    assert record["message_id"] == "e70ed4f3ba9d436b8f3aaef4f6f5bafa"
    assert (record["dicom_calling_aet"], record["dicom_called_aet"]) == ("MR1", "WRONG")
    assert (record["result"], record["source"], record["reason"]) == (1, 1, 7)
    assert "ae_titles" in record["advice"]
    contexts = record["contexts"]
    assert record["contexts_proposed"] == len(contexts) == len(proposals)
    assert [context["context_id"] for context in contexts] == [3, 5, 9, 1, 7], "refused contexts are not listed first"
    assert [context["abstract_syntax"] for context in contexts] == [proposals[at][0] for at in (1, 2, 4, 0, 3)]
    assert [context["result"] for context in contexts] == [4, 3, 4, 0, 0]
    assert contexts[3]["name"] == "MR Image Storage"
    assert contexts[3]["transfer_syntaxes"] == [EXPLICIT_LITTLE, jpeg]
    assert "contexts.transfer_syntaxes" in contexts[0]["advice"]
    assert "contexts.sop_classes" in contexts[1]["advice"]
    assert contexts[2]["transfer_syntaxes"][-1] == "and 92 more"
    daemon.check_health()
    daemon.stop()
    assert daemon.logged("association ended") == []


def test_refused_contexts_are_named_with_what_to_change(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(contexts={"transfer_syntaxes": ["uncompressed"]})
    peer = connect(daemon)
    peer.associate([(STUDY_ROOT_FIND, [EXPLICIT_LITTLE]), (CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.4.50"])])
    peer.release()
    ended(daemon, "RAWPEER")
    lines = [str(r) for r in daemon.records if "dicom_association_id" in r]
    for told in (STUDY_ROOT_FIND, CT_IMAGE_STORAGE, "1.2.840.10008.1.2.4.50", "transfer_syntaxes", "sop_classes"):
        assert any(told in line for line in lines), told


def test_nothing_of_the_patient_comes_out_anywhere(start_daemon: StartDaemon, connect: Connect, tmp_path: Path) -> None:
    """For instances that are stored, refused, cut off or not understood, at the most verbose level."""
    runtime_dir = tmp_path / "run"
    daemon = start_daemon(
        dicomd={"runtime_dir": str(runtime_dir)},
        log={"level": "debug"},
        storage={"duplicates": "reject", "max_object_size": "64KiB"},
    )
    secrets = [*PATIENT_NAME.split("^"), PATIENT_ID, "GEHEIM", "19700101"]
    uid = new_uid()
    full = data_set(uid, size=100)
    bad_study = data_set(new_uid())
    bad_study_bytes = encode(bad_study).replace(
        str(bad_study.StudyInstanceUID).encode(), PATIENT_ID.encode().ljust(len(bad_study.StudyInstanceUID), b"\0")
    )
    no_study = data_set(new_uid())
    del no_study.StudyInstanceUID
    peer = connect(daemon)
    peer.associate()
    first = Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, encode(full))
    refused_or_not = [
        first,
        Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, encode(data_set(uid, size=102))),
        Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(full)),
        Instance(CT_IMAGE_STORAGE, str(bad_study.SOPInstanceUID), EXPLICIT_LITTLE, bad_study_bytes),
        Instance(CT_IMAGE_STORAGE, str(no_study.SOPInstanceUID), EXPLICIT_LITTLE, encode(no_study)),
        instance(size=100_000),
        Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, PATIENT_NAME.encode() * 20),
    ]
    bad_commands = [
        {wire.AFFECTED_SOP_INSTANCE_UID: PATIENT_ID.encode()},
        {wire.AFFECTED_SOP_INSTANCE_UID: f"../{PATIENT_ID}".encode()},
        {wire.AFFECTED_SOP_INSTANCE_UID: PATIENT_NAME.encode()},
        {wire.AFFECTED_SOP_CLASS_UID: PATIENT_NAME.encode()},
    ]
    answers = [peer.store(one) for one in refused_or_not]
    answers += [peer.store(instance(), changes=changes) for changes in bad_commands]
    assert len({answer.status for answer in answers}) >= 6
    peer.send(p_data(pdv(1, 3, PATIENT_NAME.encode())))
    peer.read_abort()
    cut_off = connect(daemon)
    cut_off.associate()
    cut_off.send(p_data(pdv(1, 3, c_store_rq(first))) + p_data(pdv(1, 0, first.data_set[:300])))
    cut_off.reset()
    stranger = connect(daemon)
    stranger.send(PATIENT_NAME.encode())
    stranger.read_abort()
    daemon.wait_logged("instance incomplete")
    pages = [daemon.get(path)[1] for path in ("/metrics", "/-/ready", "/-/healthy", "/status", "/")]
    for options in ((), ("--json",)):
        asked = senders.run(sys.executable, "-m", "dicomd", "status", "--config", daemon.config_path, *options)
        assert asked.exit_status == 0
        assert "A900" in asked.output
        pages.append(asked.output)
    daemon.check_health()
    daemon.stop()
    comments = [answer.error_comment for answer in answers]
    for secret in secrets:
        for text in (*daemon.output, *pages, *comments):
            assert secret.lower() not in text.lower(), text


def test_a_strangers_bytes_cannot_forge_a_line(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon()
    for raw in (
        b'A\n{"event":"x"}  ',
        b"\x1b[31mRED\x1b[0m      ",
        b"\x00" * 16,
        b"\xff\xfe evil \x80     ",
        b" " * 16,
    ):
        rq = bytearray(associate_rq())
        rq[26:42] = raw[:16].ljust(16)
        peer = connect(daemon)
        peer.send(bytes(rq))
        assert peer.read_pdu().type in (wire.A_ASSOCIATE_RJ, wire.A_ASSOCIATE_AC)
        peer.sock.close()
    daemon.wait_metric("dicomd_associations_active", 0, listener="dicom")
    daemon.check_health()
    daemon.stop()
    assert daemon.logged("x") == []
    assert all("\x1b" not in line for line in daemon.output)
    assert daemon.complaints() == []
