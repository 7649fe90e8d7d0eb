"""Bytes that no DICOM peer should send: the right abort, nothing left in the store, other Associations undisturbed."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.daemon.conftest import Connect
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.encoding import command_set, p_data, pdu, pdu_header, pdv, ui, us
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, STUDY_ROOT_FIND, VERIFICATION, Instance, instance
from tests.support.raw_peer import (
    A_ABORT_PDU,
    A_RELEASE_RQ_PDU,
    Abort,
    Closed,
    RawPeer,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    request,
    store_message,
)
from tests.support.waiting import wait_until

SERVICE_USER = Abort(0, 0)
UNRECOGNIZED, UNEXPECTED, INVALID = Abort(2, 1), Abort(2, 2), Abort(2, 6)
MAX_PDU = 256 * 1024


@pytest.fixture(autouse=True)
def bystander(receiver: Daemon, connect: Connect) -> Iterator[None]:
    """Another Association that is in the middle of an object meanwhile, then finishes it and sends one more."""
    peer = connect(calling="BYSTANDER")
    peer.associate()
    sent = [instance(size=30_000), instance()]
    message = store_message(sent[0])
    peer.send(message[:20_000])
    yield
    peer.send(message[20_000:])
    assert peer.read_message().status == 0
    assert peer.store(sent[1]).status == 0
    peer.release()
    for one in sent:
        assert [file.data_set for file in receiver.stored(one.sop_instance_uid)] == [one.data_set]
    receiver.wait_no_temporary_files()


def malformed_request(change: bytes) -> bytes:
    """An A-ASSOCIATE-RQ with `change` in place of its variable items."""
    return pdu(1, associate_rq()[6:74] + change)


def cut(encoded: bytes, length: int) -> bytes:
    """A PDU whose body is cut to `length`, with its length field corrected."""
    return encoded[:2] + struct.pack(">I", length) + encoded[6 : 6 + length]


BEFORE_THE_ASSOCIATION = {
    "an unknown PDU type": pdu(0x42),
    "an unknown PDU type with a huge length": pdu_header(0x99, 0xFFFFFFFF),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a TLS ClientHello": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "random bytes": b"\xee" + random.Random(1).randbytes(500),
    "P-DATA-TF": p_data(pdv(1, 3, c_echo_rq())),
    "P-DATA-TF that is too long": pdu_header(4, MAX_PDU + 1),
    "A-ASSOCIATE-AC": pdu(2, associate_rq()[6:]),
    "A-ASSOCIATE-RJ": pdu(3, b"\0\1\1\1"),
    "A-RELEASE-RQ": A_RELEASE_RQ_PDU,
    "A-RELEASE-RP": pdu(6),
    "an A-ASSOCIATE-RQ of no bytes": pdu(1, b""),
    "an A-ASSOCIATE-RQ without all fixed fields": cut(associate_rq(), 67),
    "an A-ASSOCIATE-RQ over 256 KiB": pdu_header(1, 256 * 1024 + 1),
    "an A-ASSOCIATE-RQ of 4 GiB": pdu_header(1, 0xFFFFFFFF),
    "an A-ASSOCIATE-RQ cut inside an item": cut(associate_rq(), 110),
    "an item that is longer than the PDU": malformed_request(struct.pack(">BBH", 0x10, 0, 500) + b"1.2"),
    "an item header that is cut": malformed_request(b"\x10\x00"),
    "random items": malformed_request(random.Random(2).randbytes(300)),
    "A-ABORT of a wrong length": pdu(7, bytes(8)),
}


@pytest.mark.parametrize("sent", BEFORE_THE_ASSOCIATION.values(), ids=BEFORE_THE_ASSOCIATION.keys())
def test_before_the_association_exists(connect: Connect, sent: bytes) -> None:
    peer = connect()
    peer.send(sent)
    assert peer.read_abort() == SERVICE_USER


def test_an_abort_before_the_association_exists_just_closes(connect: Connect) -> None:
    peer = connect()
    peer.send(A_ABORT_PDU)
    peer.read_end()


def test_a_connection_that_says_nothing_and_closes_is_no_association(receiver: Daemon, connect: Connect) -> None:
    before = receiver.metrics()
    for _ in range(3):
        connect().sock.close()
    peer = connect()
    peer.send(associate_rq()[:40])
    peer.sock.close()
    receiver.wait_metric(
        "dicomd_connections_total",
        before["dicomd_connections_total", frozenset({("listener", "dicom")})] + 4,
        listener="dicom",
    )
    # only the bystander is left
    receiver.wait_metric("dicomd_associations_active", 1, listener="dicom")


def response() -> bytes:
    return command_set(
        {
            wire.AFFECTED_SOP_CLASS_UID: ui(VERIFICATION),
            wire.COMMAND_FIELD: us(0x8030),
            wire.MESSAGE_ID_BEING_RESPONDED_TO: us(1),
            wire.COMMAND_DATA_SET_TYPE: us(0x0101),
            wire.STATUS: us(0),
        }
    )


def command(changes: dict[int, bytes | None]) -> bytes:
    """A P-DATA-TF with a C-STORE-RQ with these changes."""
    return p_data(pdv(1, 3, c_store_rq(instance(), changes=changes)))


# Contexts: 1 CT images, 3 Verification, 5 refused.
IN_AN_OPEN_ASSOCIATION = {
    "an unknown PDU type": (pdu(0x42), UNRECOGNIZED),
    "PDU type 0": (pdu(0), UNRECOGNIZED),
    "an unknown PDU type of 4 GiB": (pdu_header(0xFF, 0xFFFFFFFF), UNRECOGNIZED),
    "a second A-ASSOCIATE-RQ": (associate_rq(), UNEXPECTED),
    "A-ASSOCIATE-AC": (pdu(2, associate_rq()[6:]), UNEXPECTED),
    "A-ASSOCIATE-RJ": (pdu(3, b"\0\1\1\1"), UNEXPECTED),
    "A-RELEASE-RP": (pdu(6), UNEXPECTED),
    "A-RELEASE-RQ of a wrong length": (pdu(5, bytes(8)), INVALID),
    "A-ABORT of a wrong length": (pdu(7, b""), INVALID),
    "an A-ASSOCIATE-RQ over 256 KiB": (pdu_header(1, 1 << 30), INVALID),
    "a P-DATA-TF over the advertised length": (pdu_header(4, MAX_PDU + 1), INVALID),
    "a P-DATA-TF of 4 GiB": (pdu_header(4, 0xFFFFFFFF), INVALID),
    "a P-DATA-TF of no bytes": (pdu(4, b""), INVALID),
    "a P-DATA-TF with half a PDV header": (pdu(4, b"\0\0\0"), INVALID),
    "a PDV of no bytes": (pdu(4, struct.pack(">I", 0) + b"\x01\x03"), INVALID),
    "a PDV of one byte": (pdu(4, struct.pack(">IB", 1, 1) + b"\x03"), INVALID),
    "a PDV longer than its PDU": (pdu(4, struct.pack(">IBB", 500, 1, 3) + bytes(90)), INVALID),
    "a PDV of 4 GiB": (pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 1, 2) + bytes(90)), INVALID),
    "bytes behind the last PDV": (pdu(4, pdv(3, 3, c_echo_rq()) + b"\0\0"), INVALID),
    "a context that was never proposed": (p_data(pdv(7, 3, c_echo_rq())), INVALID),
    "an even context ID": (p_data(pdv(2, 3, c_echo_rq())), INVALID),
    "context 0": (p_data(pdv(0, 3, c_echo_rq())), INVALID),
    "a refused context": (p_data(pdv(5, 3, c_echo_rq(sop_class_uid=STUDY_ROOT_FIND))), INVALID),
    "a Data Set without a command": (p_data(pdv(1, 2, bytes(100))), INVALID),
    "a Data Set after a command that has none": (
        p_data(pdv(3, 3, c_echo_rq())) + p_data(pdv(3, 2, bytes(100))),
        INVALID,
    ),
    "a command inside a command of another context": (
        p_data(pdv(1, 1, c_store_rq(instance())[:50]), pdv(3, 1, b"\0\0")),
        INVALID,
    ),
    "a Data Set inside a command": (p_data(pdv(1, 1, c_store_rq(instance())[:50])) + p_data(pdv(1, 0, b"12")), INVALID),
    "a command inside a Data Set": (
        p_data(pdv(1, 3, c_store_rq(instance()))) + p_data(pdv(1, 0, bytes(10))) + p_data(pdv(3, 3, c_echo_rq())),
        INVALID,
    ),
    "a Data Set in another context": (
        p_data(pdv(1, 3, c_store_rq(instance()))) + p_data(pdv(3, 2, bytes(10))),
        INVALID,
    ),
    "an empty command": (p_data(pdv(1, 3, b"")), INVALID),
    "a command of random bytes": (p_data(pdv(1, 3, random.Random(3).randbytes(200))), INVALID),
    "a command cut inside an element": (p_data(pdv(1, 3, c_store_rq(instance())[:-3])), INVALID),
    "a command without a Message ID": (command({wire.MESSAGE_ID: None}), INVALID),
    "a command without a Command Field": (command({wire.COMMAND_FIELD: None}), INVALID),
    "a command without a Command Data Set Type": (command({wire.COMMAND_DATA_SET_TYPE: None}), INVALID),
    "a Message ID of four bytes": (command({wire.MESSAGE_ID: bytes(4)}), INVALID),
    "a command of over 64 KiB": (p_data(pdv(1, 1, bytes(60_000))) + p_data(pdv(1, 1, bytes(60_000))), INVALID),
    "a response to nothing": (p_data(pdv(3, 3, response())), INVALID),
}


def associated(connect: Connect) -> RawPeer:
    peer = connect()
    peer.associate(
        [(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (VERIFICATION, [EXPLICIT_LITTLE]), (STUDY_ROOT_FIND, [EXPLICIT_LITTLE])]
    )
    return peer


def read_abort_behind_answers(peer: RawPeer) -> Abort:
    """Return the abort, after the answers to requests before the bad one."""
    while (read := peer.read_pdu()).type == wire.P_DATA_TF:
        continue
    assert read.type == wire.A_ABORT, read
    peer.sock.shutdown(socket.SHUT_WR)
    peer.read_end()
    return Abort(read.body[2], read.body[3])


@pytest.mark.parametrize(("sent", "expected"), IN_AN_OPEN_ASSOCIATION.values(), ids=IN_AN_OPEN_ASSOCIATION.keys())
def test_in_an_open_association(connect: Connect, sent: bytes, expected: Abort) -> None:
    peer = associated(connect)
    peer.send(sent)
    assert read_abort_behind_answers(peer) == expected


def half(one: Instance) -> bytes:
    """A C-STORE-RQ with the first half of its Data Set in whole PDUs."""
    return p_data(pdv(1, 3, c_store_rq(one))) + p_data(pdv(1, 0, one.data_set[: len(one.data_set) // 2]))


MID_OBJECT = {
    name: case
    for name, case in IN_AN_OPEN_ASSOCIATION.items()
    if name
    in (
        "an unknown PDU type",
        "a second A-ASSOCIATE-RQ",
        "A-RELEASE-RP",
        "a P-DATA-TF over the advertised length",
        "a P-DATA-TF of no bytes",
        "a PDV longer than its PDU",
        "a context that was never proposed",
        "an even context ID",
        "a response to nothing",
    )
} | {"a Data Set in another context": (p_data(pdv(3, 0, bytes(10))), INVALID)}


@pytest.mark.parametrize(("sent", "expected"), MID_OBJECT.values(), ids=MID_OBJECT.keys())
def test_in_the_middle_of_an_object(receiver: Daemon, connect: Connect, sent: bytes, expected: Abort) -> None:
    unfinished = instance(size=100_000)
    peer = associated(connect)
    peer.send(half(unfinished) + sent)
    assert peer.read_abort() == expected
    assert_nothing_left(receiver, unfinished)


def assert_nothing_left(receiver: Daemon, unfinished: Instance) -> None:
    """The unfinished instance has no file, and the bystander's is the only temporary file."""
    record = receiver.wait_logged("instance incomplete", dicom_sop_instance_uid=unfinished.sop_instance_uid)
    receiver.wait_logged("association ended", dicom_association_id=record["dicom_association_id"])
    assert receiver.stored(unfinished.sop_instance_uid) == []
    # each worker also makes a probe file now and then
    wait_until(lambda: len(receiver.temporary_files()), until=lambda count: count <= 1)


def test_a_reset_in_the_middle_of_an_object(receiver: Daemon, connect: Connect) -> None:
    unfinished = instance(size=500_000)
    peer = associated(connect)
    peer.send(half(unfinished))
    peer.reset()
    assert_nothing_left(receiver, unfinished)
    record = receiver.wait_logged("instance incomplete", dicom_sop_instance_uid=unfinished.sop_instance_uid)
    (ended,) = receiver.logged("association ended", dicom_association_id=record["dicom_association_id"])
    assert ended["outcome"] == "connection_lost"


@pytest.mark.parametrize("at", ["in a PDU header", "in a PDV header", "in a PDV", "between PDUs"])
def test_an_end_of_the_connection_in_the_middle_of_an_object(receiver: Daemon, connect: Connect, at: str) -> None:
    unfinished = instance(size=100_000)
    following = p_data(pdv(1, 0, bytes(1000)))
    cut_at = {"in a PDU header": 3, "in a PDV header": 8, "in a PDV": 500, "between PDUs": 0}[at]
    peer = associated(connect)
    peer.send(half(unfinished) + following[:cut_at])
    peer.sock.shutdown(socket.SHUT_WR)  # half-closed: it could still read
    with pytest.raises(Closed):
        peer.read_pdu()
    assert_nothing_left(receiver, unfinished)


def test_an_abort_in_the_middle_of_an_object(receiver: Daemon, connect: Connect) -> None:
    unfinished = instance(size=100_000)
    peer = associated(connect)
    peer.send(half(unfinished) + A_ABORT_PDU)
    peer.read_end()
    assert_nothing_left(receiver, unfinished)


def test_a_release_in_the_middle_of_an_object_leaves_nothing(receiver: Daemon, connect: Connect) -> None:
    """PS3.8 doesn't say whether the release is granted or aborted, but the object must not be stored."""
    unfinished = instance(size=100_000)
    peer = associated(connect)
    peer.send(half(unfinished) + A_RELEASE_RQ_PDU)
    assert peer.read_pdu().type in (wire.A_RELEASE_RP, wire.A_ABORT)
    peer.sock.close()
    assert_nothing_left(receiver, unfinished)


def test_what_was_stored_before_the_bad_bytes_stays_stored(receiver: Daemon, connect: Connect) -> None:
    good = instance()
    peer = associated(connect)
    peer.send(store_message(good) + pdu(0x42))
    assert peer.read_message().status == 0
    assert peer.read_abort() == UNRECOGNIZED
    assert len(receiver.stored(good.sop_instance_uid)) == 1


def test_bytes_after_the_abort_do_no_harm(receiver: Daemon, connect: Connect) -> None:
    """A peer with megabytes in flight when it is aborted must still be able to read the abort (PS3.8 AA-8, Sta13)."""
    late = instance(size=4_000_000)
    peer = associated(connect)
    peer.send(pdu(0x42) + store_message(late))
    assert peer.read_abort() == UNRECOGNIZED
    assert receiver.stored(late.sop_instance_uid) == []


def test_a_cancel_is_passed_over(connect: Connect) -> None:
    """C-CANCEL has no response, and no operation here can be cancelled (PS3.7 §9.3.2.3)."""
    cancel = command_set(
        {
            wire.COMMAND_FIELD: us(0x0FFF),
            wire.MESSAGE_ID_BEING_RESPONDED_TO: us(1),
            wire.COMMAND_DATA_SET_TYPE: us(0x0101),
        }
    )
    peer = associated(connect)
    peer.send(p_data(pdv(1, 3, cancel)))
    assert peer.echo().status == 0
    peer.release()


def test_an_unknown_command_is_answered(connect: Connect) -> None:
    peer = associated(connect)
    peer.send(p_data(pdv(1, 3, request(0x0150, CT_IMAGE_STORAGE))))
    assert f"{peer.read_message().status:04X}" == "0211"
    assert peer.echo().status == 0
    peer.release()


@pytest.mark.parametrize("seed", range(20))
def test_one_flipped_byte_anywhere_ends_well(receiver: Daemon, connect: Connect, seed: int) -> None:
    """Wherever it is, the daemon answers, aborts or closes; it never hangs and never stores a wrong file."""
    chosen = random.Random(seed)
    sent = instance(size=2000)
    stream = bytearray(associate_rq() + store_message(sent, fragment=500) + A_RELEASE_RQ_PDU)
    at = chosen.randrange(len(stream))
    stream[at] ^= 1 << chosen.randrange(8)
    peer = connect()
    peer.send(bytes(stream))
    peer.sock.shutdown(socket.SHUT_WR)
    peer.read_to_the_end()
    for file in receiver.stored(sent.sop_instance_uid):
        assert len(file.data_set) == len(sent.data_set)
