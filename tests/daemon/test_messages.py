"""Messages cut into PDVs and PDUs, and PDUs into TCP segments, in any way (PS3.8 §9.3.5, Annex E; PS3.7 §6.3)."""

from __future__ import annotations

import random
import re
import socket
import struct
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.encoding import p_data, pdv
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, instance
from tests.support.raw_peer import (
    A_RELEASE_RQ_PDU,
    CT_AND_ECHO,
    RawPeer,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    data_set_pdus,
    fragments,
    store_message,
)


@pytest.fixture
def peer(connect: Connect) -> RawPeer:
    """An open Association: context 1 for CT images, 3 for Verification."""
    peer = connect()
    peer.associate()
    return peer


def assert_stored(receiver: Daemon, *sent: Instance) -> None:
    for one in sent:
        (file,) = receiver.stored(one.sop_instance_uid)
        assert (file.sop_class_uid, file.transfer_syntax) == (one.sop_class_uid, one.transfer_syntax)
        assert file.data_set == one.data_set


def random_pieces(data: bytes, seed: int, largest: int) -> list[bytes]:
    chosen = random.Random(seed)
    pieces = []
    while data:
        count = chosen.randint(0, largest)
        pieces.append(data[:count])
        data = data[count:]
    return pieces


def test_nothing_holds_a_whole_data_set(start_daemon: StartDaemon, connect: Connect) -> None:
    """Measured after an instance of the same kind, so that memory allocated on first use isn't counted."""

    def peak(pid: int) -> int:
        """The peak memory of the process in bytes."""
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])

    daemon = start_daemon(dicomd={"workers": 1})
    (worker,) = daemon.worker_pids()
    peer = connect(daemon)
    peer.associate()
    small, large = instance(size=4 << 20), instance(size=96 << 20)
    assert peer.store(small, fragment=262_144 - 6).status == 0
    before = peak(worker)
    assert peer.store(large, fragment=262_144 - 6).status == 0
    assert peak(worker) - before < 8 << 20
    peer.release()
    assert_stored(daemon, small, large)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 4095, 4096, 4097, 65_536, 262_144 - 6, 1_000_003])
def test_a_data_set_of_any_size_is_stored(receiver: Daemon, peer: RawPeer, size: int) -> None:
    sent = instance(size=size)
    assert peer.store(sent, fragment=262_144 - 6).status == 0
    peer.release()
    assert_stored(receiver, sent)


@pytest.mark.parametrize("fragment", [1, 2, 3, 13, 127, 4090])
def test_a_data_set_in_fragments_of_any_size_is_stored(receiver: Daemon, peer: RawPeer, fragment: int) -> None:
    sent = instance(size=3000)
    assert peer.store(sent, fragment=fragment).status == 0
    peer.release()
    assert_stored(receiver, sent)


@pytest.mark.parametrize("seed", range(5))
def test_pdvs_cut_anywhere_several_a_pdu_are_stored(receiver: Daemon, peer: RawPeer, seed: int) -> None:
    """Some fragments are empty, which PS3.8 does not forbid."""
    sent = instance(size=40_000)
    pieces = random_pieces(sent.data_set, seed, 700)
    pdvs = [pdv(1, 0, piece) for piece in pieces[:-1]] + [pdv(1, 2, pieces[-1])]
    message = p_data(pdv(1, 3, c_store_rq(sent)))
    chosen = random.Random(seed)
    while pdvs:
        count = chosen.randint(1, 30)
        message += p_data(*pdvs[:count])
        pdvs = pdvs[count:]
    for piece in random_pieces(message, seed, 3000):
        peer.send(piece)
    assert peer.read_message().status == 0
    peer.release()
    assert_stored(receiver, sent)


def test_command_and_data_set_in_one_pdu(receiver: Daemon, peer: RawPeer) -> None:
    sent = instance()
    peer.send(p_data(pdv(1, 3, c_store_rq(sent)), pdv(1, 2, sent.data_set)))
    assert peer.read_message().status == 0
    peer.release()
    assert_stored(receiver, sent)


@pytest.mark.parametrize("size", [1, 3, 8, 50])
def test_a_command_set_in_fragments(receiver: Daemon, peer: RawPeer, size: int) -> None:
    sent = instance()
    for piece, last in fragments(c_store_rq(sent), size):
        peer.send(p_data(pdv(1, 1 | 2 * last, piece)))
    peer.send(data_set_pdus(sent.data_set))
    assert peer.read_message().status == 0
    peer.release()
    assert_stored(receiver, sent)


def test_an_empty_last_fragment_ends_a_data_set(receiver: Daemon, peer: RawPeer) -> None:
    sent = instance()
    peer.send(p_data(pdv(1, 3, c_store_rq(sent))) + p_data(pdv(1, 0, sent.data_set)) + p_data(pdv(1, 2, b"")))
    assert peer.read_message().status == 0
    peer.release()
    assert_stored(receiver, sent)


def test_a_whole_association_one_byte_at_a_time(receiver: Daemon, connect: Connect) -> None:
    sent = instance(size=64)
    peer = connect()
    peer.send_in_pieces(associate_rq(), 1)
    assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
    peer.send_in_pieces(store_message(sent), 1)
    assert peer.read_message().status == 0
    peer.send_in_pieces(A_RELEASE_RQ_PDU, 1)
    assert peer.read_pdu().type == wire.A_RELEASE_RP
    assert_stored(receiver, sent)


def test_requests_before_the_first_response_are_answered_in_their_order(receiver: Daemon, peer: RawPeer) -> None:
    sent = [instance(size=size) for size in (10, 70_000, 300_000, 0, 4096)]
    stream = b"".join(store_message(one, message_id=10 + number) for number, one in enumerate(sent))
    peer.send(stream + p_data(pdv(3, 3, c_echo_rq(99))))
    answers = [peer.read_message() for _ in range(len(sent) + 1)]
    assert [wire.us(a.command[wire.MESSAGE_ID_BEING_RESPONDED_TO]) for a in answers] == [10, 11, 12, 13, 14, 99]
    assert [a.command_field for a in answers] == [0x8001] * 5 + [0x8030]
    assert [a.context_id for a in answers] == [1] * 5 + [3]
    assert [a.status for a in answers] == [0] * 6
    peer.release()
    assert_stored(receiver, *sent)


def in_two_pdus(one: Instance, changes: dict[int, bytes | None]) -> bytes:
    return store_message(one, changes=changes)


def in_fragments(one: Instance, changes: dict[int, bytes | None]) -> bytes:
    return store_message(one, fragment=100, changes=changes)


def in_one_pdu(one: Instance, changes: dict[int, bytes | None]) -> bytes:
    return p_data(pdv(1, 3, c_store_rq(one, 1, changes)), pdv(1, 2, one.data_set))


def test_however_it_is_cut_a_message_gets_the_same_answer(receiver: Daemon, peer: RawPeer) -> None:
    """Ordinary messages use a fast path: each kind of request must end in the same way in fragments and in one PDU."""
    changes: list[dict[int, bytes | None]] = [
        {},
        {wire.MESSAGE_ID: b"\xff\xff"},
        {wire.AFFECTED_SOP_CLASS_UID: b"1.2.3.4\0"},
        {wire.AFFECTED_SOP_CLASS_UID: None},
        {wire.AFFECTED_SOP_INSTANCE_UID: b"1.2.3.4\0"},
        {wire.AFFECTED_SOP_INSTANCE_UID: b"no UID"},
        {wire.AFFECTED_SOP_INSTANCE_UID: None},
        {0x1030: b"MOVER "},
        {wire.COMMAND_FIELD: b"\x20\0"},
        {},
    ]
    sent = [instance() for _ in changes]
    answers = []
    for cut in (in_two_pdus, in_fragments, in_one_pdu):
        for one, change in zip(sent, changes, strict=True):
            peer.send(cut(one, change))
            answers.append(peer.read_message())
    told = [(answer.context_id, answer.command) for answer in answers]
    assert told[: len(sent)] == told[len(sent) : 2 * len(sent)] == told[2 * len(sent) :]
    assert len({answer.status for answer in answers}) >= 5
    peer.release()
    assert_stored(receiver, *(one for one, answer in zip(sent, answers, strict=False) if not answer.status))


def test_a_whole_association_written_in_one_go(receiver: Daemon, connect: Connect) -> None:
    """The requestor can't know yet whether it is accepted, but TCP lets it send, and the bytes are in order."""
    sent = instance(size=100_000)
    peer = connect()
    peer.send(associate_rq() + store_message(sent) + A_RELEASE_RQ_PDU)
    assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
    assert peer.read_message().status == 0
    assert peer.read_pdu().type == wire.A_RELEASE_RP
    assert_stored(receiver, sent)


def test_a_half_closed_requestor_still_gets_its_answers(receiver: Daemon, peer: RawPeer) -> None:
    """A TCP half-close only means that nothing more follows; everything received whole is stored and answered."""
    sent = instance(size=100_000)
    peer.send(store_message(sent))
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.read_message().status == 0
    assert_stored(receiver, sent)


def test_messages_of_several_contexts_and_transfer_syntaxes_on_one_association(
    receiver: Daemon, connect: Connect
) -> None:
    peer = connect()
    syntaxes = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]
    classes = [CT_IMAGE_STORAGE, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"]
    pairs = [(sop_class, syntax) for sop_class in classes for syntax in syntaxes]
    peer.associate([(sop_class, [syntax]) for sop_class, syntax in pairs])
    sent = [instance(sop_class_uid=sop_class, transfer_syntax=syntax) for sop_class, syntax in pairs]
    for index, one in enumerate(sent):
        assert peer.store(one, context_id=2 * index + 1, message_id=index).status == 0
    peer.release()
    assert_stored(receiver, *sent)


def test_many_instances_on_one_association(receiver: Daemon, peer: RawPeer) -> None:
    sent = [instance(size=200) for _ in range(100)]
    for number, one in enumerate(sent):
        assert peer.store(one, message_id=number + 1).status == 0
    peer.release()
    assert_stored(receiver, *sent)


def test_the_message_id_comes_back_whatever_it_is(peer: RawPeer) -> None:
    for message_id in (0, 1, 255, 256, 65_535):
        answer = peer.store(instance(), message_id=message_id)
        assert wire.us(answer.command[wire.MESSAGE_ID_BEING_RESPONDED_TO]) == message_id
    peer.release()


def test_a_response_has_what_ps3_7_asks_for(peer: RawPeer) -> None:
    """The elements of PS3.7 Table 9.3-2, and the correct group length."""
    sent = instance()
    peer.send(store_message(sent, message_id=7))
    pdu = peer.read_pdu()
    (part,) = wire.pdvs(pdu.body)
    assert part.is_command
    assert part.is_last
    assert struct.unpack_from("<I", part.data, 8)[0] == len(part.data) - 12
    answer = wire.command_set(part.data)
    assert list(answer) == sorted(answer)
    assert wire.uid(answer[wire.AFFECTED_SOP_CLASS_UID]) == sent.sop_class_uid
    assert wire.uid(answer[wire.AFFECTED_SOP_INSTANCE_UID]) == sent.sop_instance_uid
    assert wire.us(answer[wire.COMMAND_FIELD]) == 0x8001
    assert wire.us(answer[wire.COMMAND_DATA_SET_TYPE]) == 0x0101
    assert wire.us(answer[wire.STATUS]) == 0x0000
    assert wire.ERROR_COMMENT not in answer
    assert all(len(value) % 2 == 0 for value in answer.values())
    peer.release()


def test_responses_are_cut_to_the_requestors_maximum_length(connect: Connect) -> None:
    peer = connect()
    peer.associate(CT_AND_ECHO, max_length=30)
    peer.send(store_message(instance()))
    stream: list[wire.PDU] = []
    while not (answers := list(wire.messages(stream))):
        stream.append(peer.read_pdu())
    assert answers[0].status == 0
    assert len(stream) > 1
    assert all(len(pdu.body) <= 30 for pdu in stream)
    peer.release()


def test_associations_side_by_side_do_not_mix(receiver: Daemon, connect: Connect) -> None:
    """Their PDUs arrive alternately, cut in the middle."""
    peers = [connect() for _ in range(8)]
    sent = [instance(size=50_000 + number) for number in range(8)]
    for peer in peers:
        peer.associate()
    streams = [store_message(one, fragment=5000) for one in sent]
    for at in range(0, max(map(len, streams)), 7777):
        for peer, stream in zip(peers, streams, strict=True):
            if piece := stream[at : at + 7777]:
                peer.send(piece)
    for peer in peers:
        assert peer.read_message().status == 0
        peer.release()
    assert_stored(receiver, *sent)
    assert {one.transfer_syntax for one in sent} == {EXPLICIT_LITTLE}
