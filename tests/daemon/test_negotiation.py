"""The answers to A-ASSOCIATE-RQs (PS3.8 §9.3.2 to §9.3.4, PS3.7 Annex D)."""

from __future__ import annotations

import socket
import struct

import pytest
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.encoding import pdu, pdu_header
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_BASELINE,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Instance,
    data_set,
    encode,
    instance,
    new_uid,
)
from tests.support.raw_peer import CT_AND_ECHO, RawPeer, associate_rq
from tests.unit.docs.markdown import ROOT, rows, section

STATEMENT = (ROOT / "docs/conformance-statement.md").read_text(encoding="utf-8")
PRIVATE_CLASS = "1.2.826.0.1.3680043.10.1494.9.1"
PRIVATE_SYNTAX = "1.2.826.0.1.3680043.10.1494.9.2"


def user_items(peer: RawPeer) -> dict[int, list[bytes]]:
    """The User Information of the A-ASSOCIATE-AC."""
    return wire.user_information(peer.accept.body)


def roles(sop_class_uid: str, *, scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = sop_class_uid, scu, scp
    return item


class TestAccepting:
    def test_the_classes_and_transfer_syntaxes_of_the_conformance_statement(self, connect: Connect) -> None:
        classes = [row[2].strip("`") for row in rows(section(STATEMENT, "8.1 SOP Classes of `all-storage`"))]
        syntaxes = [row[2].strip("`") for row in rows(section(STATEMENT, "8.2 Transfer Syntaxes of `all`"))]
        proposals = [(uid, [EXPLICIT_LITTLE]) for uid in classes] + [(CT_IMAGE_STORAGE, [uid]) for uid in syntaxes]
        for first in range(0, len(proposals), 128):
            peer = connect()
            proposed = proposals[first : first + 128]
            peer.associate(proposed)
            answers = [peer.contexts[2 * place + 1] for place in range(len(proposed))]
            assert answers == [wire.ContextResult(0, uid) for _, (uid,) in proposed]
            peer.release()

    def test_the_answer_repeats_the_ae_titles_and_tells_who_answers(self, connect: Connect) -> None:
        peer = connect()
        peer.associate(called="ANY TITLE", calling="A CALLER")
        body = peer.accept.body
        assert body[:2] == b"\x00\x01"
        assert body[4:36] == b"ANY TITLE       A CALLER        "
        assert dict(wire.items(body[68:]))[0x10] == b"1.2.840.10008.3.1.1.1"
        items = user_items(peer)
        assert items[0x51] == [struct.pack(">I", 256 * 1024)]
        assert wire.uid(items[0x52][0])
        assert 1 <= len(items[0x55][0]) <= 16
        peer.release()

    def test_all_standard_storage_contexts_in_any_transfer_syntax(self, connect: Connect) -> None:
        peer = connect()
        syntaxes = [JPEG_BASELINE, EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, "1.2.840.10008.1.2.4.90"]
        peer.associate([(CT_IMAGE_STORAGE, [syntax]) for syntax in syntaxes])
        assert [peer.contexts[2 * n + 1].result for n in range(5)] == [0] * 5
        assert [peer.contexts[2 * n + 1].transfer_syntax for n in range(5)] == syntaxes
        peer.release()

    def test_one_of_several_transfer_syntaxes_is_chosen(self, receiver: Daemon, connect: Connect) -> None:
        peer = connect()
        proposed = [EXPLICIT_BIG, IMPLICIT_LITTLE, EXPLICIT_LITTLE]
        peer.associate([(CT_IMAGE_STORAGE, proposed)])
        chosen = peer.contexts[1].transfer_syntax
        assert chosen in proposed
        sent = instance(transfer_syntax=chosen)
        assert peer.store(sent).status == 0
        peer.release()
        (file,) = receiver.stored(sent.sop_instance_uid)
        assert (file.transfer_syntax, file.data_set) == (chosen, sent.data_set)

    def test_128_contexts_are_judged_one_by_one(self, connect: Connect) -> None:
        proposals = [
            (CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]) if n % 2 else (STUDY_ROOT_FIND, [EXPLICIT_LITTLE]) for n in range(128)
        ]
        peer = connect()
        peer.associate(proposals)
        assert sorted(peer.contexts) == list(range(1, 256, 2))
        assert [peer.contexts[2 * n + 1].result for n in range(128)] == [0 if n % 2 else 3 for n in range(128)]
        assert peer.store(instance(), context_id=255).status == 0
        peer.release()

    def test_the_same_request_gets_the_same_answer_again(self, connect: Connect) -> None:
        """Answers may be cached; only the AE Titles differ."""
        answers = []
        for calling in ("FIRST", "SECOND", "THIRD"):
            peer = connect()
            answers.append(peer.associate(calling=calling).body)
            peer.release()
        assert {body[68:] for body in answers} == {answers[0][68:]}
        assert [body[20:36].strip() for body in answers] == [b"FIRST", b"SECOND", b"THIRD"]

    def test_no_acceptable_context_is_still_accepted_and_each_says_why(self, connect: Connect) -> None:
        peer = connect()
        peer.associate(
            [
                (STUDY_ROOT_FIND, [EXPLICIT_LITTLE]),
                (CT_IMAGE_STORAGE, [PRIVATE_SYNTAX]),
                (PRIVATE_CLASS, [EXPLICIT_LITTLE]),
            ]
        )
        assert {n: context.result for n, context in peer.contexts.items()} == {1: 3, 3: 4, 5: 3}
        peer.release()


class TestUserInformation:
    @pytest.mark.parametrize(("proposed", "answered"), [(0, 8), (1, 1), (3, 3), (8, 8), (9, 8), (65535, 8)])
    def test_an_asynchronous_operations_window_is_answered_with_what_both_allow(
        self, connect: Connect, proposed: int, answered: int
    ) -> None:
        item = AsynchronousOperationsWindowNegotiation()
        item.maximum_number_operations_invoked, item.maximum_number_operations_performed = proposed, 5
        peer = connect()
        peer.associate(user_information=[item])
        assert user_items(peer)[0x53] == [struct.pack(">HH", answered, 1)]
        assert peer.store(instance()).status == 0
        peer.release()

    def test_without_a_window_none_is_answered(self, connect: Connect) -> None:
        peer = connect()
        peer.associate()
        assert 0x53 not in user_items(peer)
        peer.release()

    def test_the_role_of_scu_is_accepted_that_of_scp_is_not(self, connect: Connect) -> None:
        peer = connect()
        peer.associate(user_information=[roles(CT_IMAGE_STORAGE, scu=True, scp=True)])
        (answer,) = user_items(peer)[0x54]
        length = struct.unpack_from(">H", answer)[0]
        assert wire.uid(answer[2 : 2 + length]) == CT_IMAGE_STORAGE
        assert answer[2 + length :] == b"\x01\x00"
        assert peer.contexts[1].result == 0
        assert peer.store(instance()).status == 0
        peer.release()

    def test_a_requestor_that_would_be_scp_only_gets_no_storage(self, connect: Connect) -> None:
        """Dicomd never sends C-STORE, so a context without an SCU on the other side would be useless."""
        peer = connect()
        peer.associate(user_information=[roles(CT_IMAGE_STORAGE, scu=False, scp=True)])
        answers = user_items(peer).get(0x54, [])
        assert all(answer[-1] == 0 for answer in answers)
        peer.release()

    @pytest.mark.parametrize("response_requested", [False, True])
    def test_a_user_identity_is_ignored(self, connect: Connect, response_requested: bool) -> None:
        item = UserIdentityNegotiation()
        item.user_identity_type, item.primary_field, item.secondary_field = 2, b"nobody", b"secret"
        item.positive_response_requested = response_requested
        peer = connect()
        peer.associate(user_information=[item])
        assert 0x59 not in user_items(peer)
        assert peer.store(instance()).status == 0
        peer.release()

    def test_extended_negotiation_is_answered_and_the_common_one_is_not(self, connect: Connect) -> None:
        """PS3.7 Annex D.3.3.5 and D.3.3.6: SOP Class Common Extended Negotiation has no answer."""
        extended = SOPClassExtendedNegotiation()
        extended.sop_class_uid, extended.service_class_application_information = (
            CT_IMAGE_STORAGE,
            b"\x02\x00\x03\x00\x01\x00",
        )
        common = SOPClassCommonExtendedNegotiation()
        common.sop_class_uid, common.service_class_uid = CT_IMAGE_STORAGE, "1.2.840.10008.4.2"
        peer = connect()
        peer.associate(user_information=[extended, common])
        items = user_items(peer)
        assert 0x57 not in items
        for answer in items.get(0x56, []):
            length = struct.unpack_from(">H", answer)[0]
            assert wire.uid(answer[2 : 2 + length]) == CT_IMAGE_STORAGE
        assert peer.store(instance()).status == 0
        peer.release()

    def test_items_that_nobody_knows_are_passed_over(self, connect: Connect) -> None:
        """PS3.8 §9.3.1: unrecognized items are ignored."""
        rq = bytearray(associate_rq())
        rq += struct.pack(">BBH", 0x7E, 0, 6) + b"future"
        struct.pack_into(">I", rq, 2, len(rq) - 6)
        peer = connect()
        peer.send(bytes(rq))
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
        peer.release()


class TestRejecting:
    def test_an_unsupported_application_context(self, connect: Connect) -> None:
        peer = connect()
        peer.send(associate_rq(application_context="1.2.840.10008.3.1.1.2"))
        assert peer.read_rejection() == (1, 1, 2)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.read_end()

    def test_no_application_context_at_all(self, connect: Connect) -> None:
        peer = connect()
        fixed_fields = associate_rq()[6:74]
        peer.send(pdu(wire.A_ASSOCIATE_RQ, fixed_fields))
        assert peer.read_rejection() == (1, 1, 2)

    def test_an_unsupported_protocol_version(self, connect: Connect) -> None:
        peer = connect()
        rq = bytearray(associate_rq())
        rq[6:8] = b"\x00\x02"
        peer.send(bytes(rq))
        assert peer.read_rejection() == (1, 2, 2)

    def test_further_protocol_versions_beside_the_first_do_not_matter(self, connect: Connect) -> None:
        """Bit 0 is version 1, and only it is tested (PS3.8 Table 9-11)."""
        peer = connect()
        rq = bytearray(associate_rq())
        rq[6:8] = b"\xff\xff"
        peer.send(bytes(rq))
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
        peer.release()

    def test_a_rejected_association_is_one_line_that_says_who_and_why(self, receiver: Daemon, connect: Connect) -> None:
        peer = connect()
        peer.send(associate_rq(calling="STRANGER", application_context="1.2.840.10008.3.1.1.2"))
        peer.read_rejection()
        peer.sock.shutdown(socket.SHUT_WR)
        peer.read_end()
        record = receiver.wait_logged("association rejected", dicom_calling_aet="STRANGER")
        assert (record["result"], record["source"], record["reason"]) == (1, 1, 2)
        assert record["dicom_called_aet"] == "DICOMD"
        assert record["dicom_peer_address"] == "127.0.0.1"
        assert record["advice"]
        later = connect()
        later.associate(calling="LATER")
        later.release()
        receiver.wait_logged("association ended", dicom_calling_aet="LATER")
        assert receiver.logged("association ended", dicom_calling_aet="STRANGER") == []

    def test_a_called_ae_title_that_is_not_ours(self, start_daemon: StartDaemon, connect: Connect) -> None:
        daemon = start_daemon(dicomd={"ae_titles": ["DICOMD", "SECOND"]})
        for called, expected in (("OTHER", (1, 1, 7)), ("dicomd", (1, 1, 7)), ("DICOMD2", (1, 1, 7))):
            peer = connect(daemon)
            peer.send(associate_rq(called=called))
            assert peer.read_rejection() == expected
            peer.sock.close()
        for called in ("DICOMD", "SECOND", " DICOMD"):
            peer = connect(daemon)
            peer.associate(called=called)
            peer.release()
        daemon.wait_metric("dicomd_associations_rejected_total", 3, source="1", reason="7")

    @pytest.mark.parametrize("called", [b"", b"back\\slash", b"\xe4\x01"])
    def test_without_configured_titles_every_called_ae_title_is_accepted(self, connect: Connect, called: bytes) -> None:
        (when,) = (row[1] for row in rows(section(STATEMENT, "Rejections")) if row[0] == "1 / 1 / 7")
        assert "every one is accepted, even an empty or invalid one" in when
        peer = connect()
        request = associate_rq()
        peer.send(request[:10] + called.ljust(16) + request[26:])
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
        peer.release()

    def test_one_association_more_than_the_limit(self, start_daemon: StartDaemon, connect: Connect) -> None:
        daemon = start_daemon(limits={"associations": 2})
        peers = [connect(daemon), connect(daemon)]
        for peer in peers:
            peer.associate()
        third = connect(daemon)
        third.send(associate_rq())
        assert third.read_rejection() == (2, 3, 2)
        third.sock.close()
        daemon.wait_metric("dicomd_limit_hits_total", 1, limit="associations")
        peers[0].release()
        fourth = connect(daemon)
        fourth.associate()
        for peer in (peers[1], fourth):
            assert peer.store(instance()).status == 0
            peer.release()

    def test_one_connection_more_than_the_limit_is_closed(self, start_daemon: StartDaemon, connect: Connect) -> None:
        daemon = start_daemon(limits={"connections": 2})
        peer = connect(daemon)
        peer.associate()
        silent = connect(daemon)
        daemon.wait_metric("dicomd_connections_total", 2, listener="dicom")
        connect(daemon).read_end()
        silent.sock.close()
        assert peer.store(instance()).status == 0
        peer.release()


class TestSopClasses:
    def test_a_private_sop_class_is_accepted_on_request(self, start_daemon: StartDaemon, connect: Connect) -> None:
        daemon = start_daemon(contexts={"sop_classes": [PRIVATE_CLASS]})
        peer = connect(daemon)
        peer.associate(
            [
                (PRIVATE_CLASS, [EXPLICIT_LITTLE]),
                (CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]),
                (VERIFICATION, [IMPLICIT_LITTLE]),
            ]
        )
        assert [peer.contexts[n].result for n in (1, 3, 5)] == [0, 3, 0]
        sent = instance(sop_class_uid=PRIVATE_CLASS)
        assert peer.store(sent).status == 0
        assert peer.echo(5).status == 0
        peer.release()
        assert daemon.stored(sent.sop_instance_uid)[0].sop_class_uid == PRIVATE_CLASS

    def test_any_takes_every_sop_class_and_private_transfer_syntaxes(
        self, start_daemon: StartDaemon, connect: Connect
    ) -> None:
        daemon = start_daemon(contexts={"sop_classes": ["any"], "transfer_syntaxes": ["all", PRIVATE_SYNTAX]})
        peer = connect(daemon)
        peer.associate([(PRIVATE_CLASS, [PRIVATE_SYNTAX]), (CT_IMAGE_STORAGE, [EXPLICIT_LITTLE])])
        assert [peer.contexts[n].result for n in (1, 3)] == [0, 0]
        uid = new_uid()
        encoded = encode(data_set(uid, sop_class_uid=PRIVATE_CLASS))
        assert peer.store(Instance(PRIVATE_CLASS, uid, PRIVATE_SYNTAX, encoded)).status == 0
        peer.release()
        (file,) = daemon.stored(uid)
        assert (file.transfer_syntax, file.data_set) == (PRIVATE_SYNTAX, encoded)

    def test_transfer_syntaxes_not_configured_are_refused(self, start_daemon: StartDaemon, connect: Connect) -> None:
        daemon = start_daemon(contexts={"transfer_syntaxes": ["uncompressed"]})
        peer = connect(daemon)
        peer.associate([(CT_IMAGE_STORAGE, [JPEG_BASELINE]), (CT_IMAGE_STORAGE, [JPEG_BASELINE, EXPLICIT_LITTLE])])
        assert [peer.contexts[n].result for n in (1, 3)] == [4, 0]
        assert peer.contexts[3].transfer_syntax == EXPLICIT_LITTLE
        peer.release()

    def test_the_configured_maximum_length_is_advertised_and_kept(
        self, start_daemon: StartDaemon, connect: Connect
    ) -> None:
        daemon = start_daemon(limits={"max_pdu": "32KiB"})
        peer = connect(daemon)
        peer.associate(CT_AND_ECHO)
        assert user_items(peer)[0x51] == [struct.pack(">I", 32 * 1024)]
        assert peer.store(instance(size=100_000), fragment=32 * 1024 - 6).status == 0
        peer.send(pdu_header(wire.P_DATA_TF, 32 * 1024 + 1))
        abort = peer.read_abort()
        assert (abort.source, abort.reason) == (2, 6)
