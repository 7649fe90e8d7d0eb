"""Sentences of the Conformance Statement that no other test holds the daemon to, each quoted beside what shows it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import DEFAULT_TRANSFER_SYNTAXES, PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation, SOPClassExtendedNegotiation

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import senders, wire
from tests.support.daemon import Daemon
from tests.support.encoding import element
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_BASELINE,
    MR_IMAGE_STORAGE,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Instance,
    data_set,
    encode,
    instance,
    new_uid,
    write_file,
)
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.relay import Relay
from tests.unit.docs.markdown import ROOT, rows, section

STATEMENT = (ROOT / "docs/conformance-statement.md").read_text(encoding="utf-8")

OTHER_SERVICES = [
    "1.2.840.10008.5.1.4.1.2.1.1",  # Patient Root Query/Retrieve - FIND
    "1.2.840.10008.5.1.4.1.2.2.2",  # Study Root Query/Retrieve - MOVE
    "1.2.840.10008.5.1.4.1.2.2.3",  # Study Root Query/Retrieve - GET
    "1.2.840.10008.1.20.1",  # Storage Commitment Push Model
    "1.2.840.10008.5.1.4.31",  # Modality Worklist
    "1.2.840.10008.3.1.2.3.3",  # Modality Performed Procedure Step
]


def states(sentence: str) -> None:
    """Assert that the page still has this sentence, however its lines are broken."""
    assert " ".join(sentence.split()) in " ".join(STATEMENT.split())


def extended(sop_class_uid: str, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = sop_class_uid, information
    return item


def role(sop_class_uid: str, *, scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = sop_class_uid, scu, scp
    return item


def by_class(peer: RawPeer, item: int) -> dict[str, bytes]:
    """The values of these sub-items of the A-ASSOCIATE-AC by SOP Class."""
    found = {}
    for value in wire.user_information(peer.accept.body).get(item, []):
        (length,) = struct.unpack_from(">H", value)
        found[wire.uid(value[2 : 2 + length])] = value[2 + length :]
    return found


def test_contexts_of_other_services_are_refused_beside_accepted_ones(connect: Connect) -> None:
    states("if a peer proposes them, these Presentation Contexts are refused and the others accepted.")
    peer = connect()
    peer.associate([(uid, [EXPLICIT_LITTLE]) for uid in (*OTHER_SERVICES, CT_IMAGE_STORAGE, VERIFICATION)])
    assert [peer.contexts[2 * place + 1].result for place in range(8)] == [3] * 6 + [0, 0]
    peer.release()


def test_verification_is_accepted_in_the_three_transfer_syntaxes_of_the_page(connect: Connect) -> None:
    (row,) = (row for row in rows(section(STATEMENT, "Accepted Presentation Contexts")) if row[0] == "Verification")
    assert row[1] == "Implicit VR Little Endian, Explicit VR Little Endian, Explicit VR Big Endian"
    peer = connect()
    peer.associate([(VERIFICATION, [uid]) for uid in (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, JPEG_BASELINE)])
    assert [peer.contexts[number].result for number in (1, 3, 5, 7)] == [0, 0, 0, 4]
    assert [peer.echo(number).status for number in (1, 3, 5)] == [0, 0, 0]
    peer.release()


def test_the_acceptor_chooses_by_its_own_order_of_preference(connect: Connect) -> None:
    states("the acceptor chooses from the proposed Transfer Syntaxes the first in its own order of preference (8.2)")
    order = [row[2].strip("`") for row in rows(section(STATEMENT, "8.2 Transfer Syntaxes of `all`"))]
    peer = connect()
    peer.associate([(CT_IMAGE_STORAGE, order[first:][::-1]) for first in range(len(order))])
    assert [peer.contexts[2 * first + 1].transfer_syntax for first in range(len(order))] == order
    peer.release()


def test_several_contexts_for_one_abstract_syntax_are_accepted_and_used(receiver: Daemon, connect: Connect) -> None:
    states("Several contexts for one Abstract Syntax are accepted.")
    sent = [instance(transfer_syntax=uid) for uid in (EXPLICIT_BIG, IMPLICIT_LITTLE, EXPLICIT_LITTLE)]
    peer = connect()
    peer.associate([(CT_IMAGE_STORAGE, [each.transfer_syntax]) for each in sent])
    assert [peer.store(each, context_id=2 * at + 1).status for at, each in enumerate(sent)] == [0, 0, 0]
    peer.release()
    for each in sent:
        (file,) = receiver.stored(each.sop_instance_uid)
        assert (file.transfer_syntax, file.data_set) == (each.transfer_syntax, each.data_set)


def test_a_peer_that_proposes_to_be_scp_only_gets_result_1(connect: Connect) -> None:
    states("or 1 (the peer proposed to be SCP only)")
    peer = connect()
    proposals = [(uid, [EXPLICIT_LITTLE]) for uid in (CT_IMAGE_STORAGE, MR_IMAGE_STORAGE, STUDY_ROOT_FIND)]
    wished = [role(CT_IMAGE_STORAGE, scu=False, scp=True), role(MR_IMAGE_STORAGE, scu=True, scp=True)]
    peer.associate(proposals, user_information=[*wished, role(STUDY_ROOT_FIND, scu=True, scp=True)])
    assert [peer.contexts[number].result for number in (1, 3, 5)] == [1, 0, 3]
    assert by_class(peer, 0x54) == {MR_IMAGE_STORAGE: b"\1\0"}
    peer.release()


def test_extended_negotiation_is_answered_for_accepted_storage_classes_alone(connect: Connect) -> None:
    states("for accepted Storage SOP Classes: level of support 2 (Full), level of Digital Signature support 3")
    proposals = [(uid, [EXPLICIT_LITTLE]) for uid in (CT_IMAGE_STORAGE, STUDY_ROOT_FIND, VERIFICATION)]
    peer = connect()
    wished = [extended(uid, bytes((0, 0, 1, 0, 2, 0))) for uid, _ in [*proposals, (MR_IMAGE_STORAGE, ())]]
    peer.associate(proposals, user_information=wished)
    assert by_class(peer, 0x56) == {CT_IMAGE_STORAGE: bytes((2, 0, 3, 0, 0, 0))}
    peer.release()


FAULTS: list[tuple[tuple[int, int, int], str, Callable[[bytes], bytes]]] = [
    ((1, 1, 2), "application context", lambda rq: rq.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")),
    ((2, 3, 2), "limits", lambda rq: rq),
    ((2, 3, 1), "readiness", lambda rq: rq),
    ((1, 1, 7), "Called AE Title", lambda rq: rq[:10] + b"OTHER".ljust(16) + rq[26:]),
    ((1, 1, 3), "Calling AE Title", lambda rq: rq[:26] + b" " * 16 + rq[42:]),
    ((1, 2, 2), "protocol version", lambda rq: rq[:6] + b"\0\2" + rq[8:]),
]
"""What can be wrong with a request, in the order opposite to that of the checks: the rejection, and the change."""


def test_of_several_faults_the_one_that_is_checked_first_is_named(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    states(
        "checked in this order: protocol version, Calling and Called AE Title, readiness of the receiver, limits, "
        "application context"
    )
    daemon = start_daemon(
        dicomd={"ae_titles": ["DICOMD"], "runtime_dir": str(tmp_path / "run")}, limits={"associations": 1}
    )
    request = associate_rq()
    for expected, what, change in FAULTS:
        if what == "limits":
            holding = connect(daemon)
            holding.associate()
        elif what == "readiness":
            command = (sys.executable, "-m", "dicomd", "maintenance", "on", "--config", daemon.config_path)
            assert senders.run(*command).exit_status == 0
        request = change(request)
        peer = connect(daemon)
        peer.send(request)
        assert (what, peer.read_rejection()) == (what, expected)
        peer.sock.close()
    holding.release()


def test_both_uids_of_the_data_set_have_to_be_there(receiver: Daemon, connect: Connect) -> None:
    states("SOP Class UID and SOP Instance UID must be in the Data Set, and be those of the command")
    peer = connect()
    peer.associate()
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        ds = data_set(uid := new_uid())
        delattr(ds, keyword)
        assert f"{peer.store(Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, encode(ds))).status:04X}" == "C000"
        assert receiver.stored(uid) == []
    peer.release()


@pytest.mark.parametrize("group", [0x0000, 0x0002, 0x0004, 0x0006])
def test_elements_that_only_files_and_commands_have_are_refused(connect: Connect, group: int) -> None:
    states("it must have no element of group 0000, 0002, 0004 or 0006 there")
    uid = new_uid()
    strange = element(group << 16 | 0x0010, "UI", EXPLICIT_LITTLE)
    peer = connect()
    peer.associate()
    answer = peer.store(Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, strange + encode(data_set(uid))))
    assert (f"{answer.status:04X}", answer.offending_elements) == ("C000", [group << 16 | 0x0010])
    peer.release()


@pytest.mark.parametrize(
    ("negotiated", "sent"), [(IMPLICIT_LITTLE, EXPLICIT_LITTLE), (EXPLICIT_LITTLE, IMPLICIT_LITTLE)]
)
def test_a_wrongly_announced_transfer_syntax_changes_nothing_in_what_is_stored(
    receiver: Daemon, connect: Connect, negotiated: str, sent: str
) -> None:
    states("the bytes are stored as received, under the negotiated Transfer Syntax")
    uid = new_uid()
    encoded = encode(data_set(uid), sent)
    peer = connect()
    peer.associate([(CT_IMAGE_STORAGE, [negotiated])])
    assert peer.store(Instance(CT_IMAGE_STORAGE, uid, negotiated, encoded)).status == 0
    peer.release()
    (file,) = receiver.stored(uid)
    assert (file.transfer_syntax, file.data_set) == (negotiated, encoded)


def test_tcp_keep_alive_is_on(receiver: Daemon, connect: Connect) -> None:
    states("TCP keep-alive is on.")
    peer = connect()
    peer.associate()
    ours = peer.sock.getsockname()[1]
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (timer,) = (c[5] for c in connections if c[1].endswith(f":{receiver.port:04X}") and c[2].endswith(f":{ours:04X}"))
    assert timer.startswith("02:")  # the timer of keep-alive (proc_net_tcp in the kernel's documentation)
    peer.release()


class TestToolSCU:
    def test_echo_proposes_verification_in_pynetdicoms_transfer_syntaxes(self, receiver: Daemon, relay: Relay) -> None:
        (row,) = (row for row in rows(section(STATEMENT, "4.2.2 TOOL-SCU")) if row[0] == "proposed Transfer Syntaxes")
        names = {
            IMPLICIT_LITTLE: "Implicit",
            EXPLICIT_LITTLE: "Explicit VR Little Endian",
            EXPLICIT_BIG: "Explicit VR Big Endian",
            "1.2.840.10008.1.2.1.99": "Deflated",
        }
        assert all(names[uid] in row[1] for uid in DEFAULT_TRANSFER_SYNTAXES)
        assert senders.dicomd("echo", *relay.address).exit_status == 0
        (talk,) = relay.conversations()
        assert proposed(talk) == [(VERIFICATION, list(DEFAULT_TRANSFER_SYNTAXES))]
        assert_only_names_itself(talk)
        assert talk.requestor_pdus[0].body[4:36] == b"ANY-SCP".ljust(16) + b"DICOMD".ljust(16)
        assert len(talk.requests) == 1

    def test_send_proposes_each_pair_once_and_nothing_else(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        states("that of each file, each pair in a context of its own; nothing is converted")
        for number, sop_class in enumerate((CT_IMAGE_STORAGE, CT_IMAGE_STORAGE, MR_IMAGE_STORAGE)):
            write_file(tmp_path / f"{number}.dcm", sop_class_uid=sop_class)
        assert senders.dicomd("send", *relay.address, tmp_path).exit_status == 0
        (talk,) = relay.conversations()
        pairs = [(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (MR_IMAGE_STORAGE, [EXPLICIT_LITTLE])]
        assert sorted(proposed(talk)) == pairs
        assert_only_names_itself(talk)
        assert [message.status for message in talk.responses] == [0, 0, 0]


def proposed(talk: wire.Conversation) -> list[tuple[str, list[str]]]:
    """The Presentation Contexts of the request: Abstract Syntax and Transfer Syntaxes."""
    found = []
    for kind, value in wire.items(talk.requestor_pdus[0].body[68:]):
        if kind == 0x20:
            uids = [(sub_kind, wire.uid(sub)) for sub_kind, sub in wire.items(value[4:])]
            found.append((uids[0][1], [uid for sub_kind, uid in uids if sub_kind == 0x40]))
    return found


def assert_only_names_itself(talk: wire.Conversation) -> None:
    """The request's User Information has the Maximum Length and pynetdicom's implementation, and nothing else."""
    states("It proposes no extended negotiation, roles or user identity, and accepts no Associations.")
    items = wire.user_information(talk.requestor_pdus[0].body)
    assert items.keys() == {0x51, 0x52, 0x55}
    assert wire.uid(items[0x52][0]) == PYNETDICOM_IMPLEMENTATION_UID
    assert items[0x55][0].decode().strip() == PYNETDICOM_IMPLEMENTATION_VERSION
