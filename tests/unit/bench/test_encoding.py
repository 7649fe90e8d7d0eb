"""The raw sender's bytes are readable by pynetdicom and pydicom."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE

from bench import blast, encoding
from bench.errors import BlastError

SIZES_AND_LIMITS = [(4096, 16384), (524288, 16384), (524288, 262144), (524288, 0), (9 << 20, 65536), (16384 - 6, 16384)]


def pdvs(stream: bytes) -> list[tuple[int, int, bytes]]:
    """Context ID, message control header and fragment of each PDV, from PDUs decoded by pynetdicom."""
    found, at = [], 0
    while at < len(stream):
        kind, length = struct.unpack_from(">BxI", stream, at)
        assert kind == encoding.P_DATA_TF
        pdu = P_DATA_TF()
        pdu.decode(stream[at : at + 6 + length])
        for value in pdu.presentation_data_value_items:
            data = value.presentation_data_value
            assert data is not None
            assert value.presentation_context_id is not None
            found.append((value.presentation_context_id, data[0], data[1:]))
        at += 6 + length
    return found


def whole(stream: encoding.InstanceStream) -> bytes:
    return bytes(stream.first) + stream.block * stream.repeats + stream.last


def data_set_of(raw: bytes) -> Dataset:
    return dcmread(io.BytesIO(encoded_file(raw)))


def encoded_file(raw: bytes) -> bytes:
    """A Part 10 file with this Data Set in Explicit VR Little Endian."""
    syntax = encoding.data_element(2, 0x10, b"UI", encoding.EXPLICIT_VR_LITTLE_ENDIAN)
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(syntax)) + syntax + raw


@pytest.mark.parametrize(("size", "limit"), SIZES_AND_LIMITS)
def test_a_stream_is_one_c_store_request_with_the_announced_data_set(size: int, limit: int) -> None:
    stream = encoding.InstanceStream.encode(size, limit)
    stream.renew()
    parts = pdvs(whole(stream))
    assert {context for context, _, _ in parts} == {encoding.STORAGE_CONTEXT}
    commands = [(control, data) for _, control, data in parts if control & 1]
    fragments = [(control, data) for _, control, data in parts if not control & 1]
    assert [control for control, _ in commands] == [3]
    assert [control for control, _ in fragments] == [0] * (len(fragments) - 1) + [2]
    command = decode(io.BytesIO(commands[0][1]), is_implicit_vr=True, is_little_endian=True)
    data_set = data_set_of(b"".join(data for _, data in fragments))
    assert command.CommandField == 0x0001
    assert command.CommandGroupLength == len(commands[0][1]) - 12
    assert command.AffectedSOPInstanceUID == data_set.SOPInstanceUID == f"2.25.{stream.number}"
    assert command.AffectedSOPClassUID == data_set.SOPClassUID
    assert len(data_set.PixelData) == size


@pytest.mark.parametrize(("size", "limit"), SIZES_AND_LIMITS)
def test_no_pdu_is_longer_than_the_receivers_maximum(size: int, limit: int) -> None:
    stream, at, longest = whole(encoding.InstanceStream.encode(size, limit)), 0, 0
    while at < len(stream):
        length = struct.unpack_from(">BxI", stream, at)[1]
        longest, at = max(longest, length), at + 6 + length
    assert longest <= (limit or 1 << 21)


def test_a_renewed_stream_differs_in_the_uid_only() -> None:
    stream = encoding.InstanceStream.encode(4096, 16384)
    before, number = whole(stream), stream.number
    stream.renew()
    after = whole(stream)
    assert stream.number == number + 1
    assert after == before.replace(b"%d" % number, b"%d" % (number + 1))
    assert after.count(b"2.25.%d" % (number + 1)) == 2


def test_a_renewed_stream_has_the_message_id_that_it_is_given() -> None:
    stream = encoding.InstanceStream.encode(4096, 16384)
    for message_id in (1, 2, 0x1234, 65535):
        stream.renew(message_id)
        command = next(data for _, control, data in pdvs(whole(stream)) if control & 1)
        assert decode(io.BytesIO(command), is_implicit_vr=True, is_little_endian=True).MessageID == message_id


def test_a_stream_refuses_a_maximum_its_first_fragment_cannot_hold() -> None:
    with pytest.raises(BlastError, match="too short"):
        encoding.InstanceStream.encode(4096, 128)


def test_uids_are_new_and_of_one_length() -> None:
    uids = {encoding.random_uid() for _ in range(100)}
    assert len(uids) == 100
    assert {len(uid) for uid in uids} == {len(b"2.25.") + encoding.UID_DIGITS}
    assert all(uid[5:].isdigit() and uid[5:6] != b"0" for uid in uids)


@pytest.mark.parametrize("window", [1, 8])
def test_the_associate_request_reads_back(window: int) -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(encoding.associate_rq("STORE", "BLAST", window))
    item = pdu.user_information.async_ops_window
    assert (item.maximum_number_operations_invoked if item else 1) == window
    request: A_ASSOCIATE = pdu.to_primitive()
    assert (request.called_ae_title, request.calling_ae_title) == ("STORE", "BLAST")
    contexts = {
        c.context_id: (c.abstract_syntax, c.transfer_syntax) for c in request.presentation_context_definition_list
    }
    syntaxes = [encoding.EXPLICIT_VR_LITTLE_ENDIAN.decode()]
    assert contexts == {
        encoding.STORAGE_CONTEXT: (encoding.CT_IMAGE_STORAGE.decode(), syntaxes),
        encoding.VERIFICATION_CONTEXT: (encoding.VERIFICATION.decode(), syntaxes),
    }


@contextlib.contextmanager
def receiving(handlers: list[Any]) -> Iterator[int]:
    """Run pynetdicom's server on a free port, and yield the port."""
    ae = AE()
    ae.add_supported_context(encoding.CT_IMAGE_STORAGE.decode())
    ae.add_supported_context(encoding.VERIFICATION.decode())
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    assert server.socket is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def associate_ac(results: dict[int, int], maximum: int | None, window: int = 0) -> bytes:
    contexts = b"".join(
        encoding.item(0x21, bytes((identifier, 0, result, 0)) + encoding.item(0x40, encoding.EXPLICIT_VR_LITTLE_ENDIAN))
        for identifier, result in results.items()
    )
    user = b"" if maximum is None else encoding.item(0x51, struct.pack(">I", maximum))
    user += encoding.item(0x52, b"2.25.1")
    if window:
        user += encoding.item(0x53, struct.pack(">HH", window, 1))
    body = struct.pack(">HH64x", 1, 0) + encoding.item(0x10, encoding.APPLICATION_CONTEXT) + contexts
    return body + encoding.item(0x50, user)


@pytest.mark.parametrize(("sent", "read"), [(65536, 65536), (0, 0), (None, encoding.DEFAULT_MAXIMUM_LENGTH)])
def test_the_receivers_maximum_length_is_read(sent: int | None, read: int) -> None:
    body = associate_ac({1: 0, 3: 0}, sent)
    A_ASSOCIATE_AC().decode(struct.pack(">BBI", 2, 0, len(body)) + body)
    assert encoding.accepted(body, (1, 3)) == (read, 1)
    assert encoding.accepted(associate_ac({1: 0, 3: 0}, sent, 5), (1, 3)) == (read, 5)


@pytest.mark.parametrize("results", [{1: 3, 3: 0}, {3: 0}])
def test_a_context_that_is_needed_and_not_accepted_is_an_error(results: dict[int, int]) -> None:
    with pytest.raises(BlastError, match="Presentation Context 1"):
        encoding.accepted(associate_ac(results, 16384), (1, 3))


def test_a_response_without_a_status_is_an_error() -> None:
    with pytest.raises(BlastError, match="without a Message ID or a Status"):
        encoding.answer_of(b"\0\0\0\x0a\x01\x03" + encoding.command_element(0x0100, b"\x01\x80"))


@pytest.mark.parametrize(
    ("order", "senders", "stored", "associations"),
    [
        (blast.Order("store", 3, 4096), 2, 6, 2),
        (blast.Order("store", 4, 4096, per_association=2), 1, 4, 2),
        (blast.Order("store", 9, 4096, window=4), 1, 9, 1),  # of which it grants 1
        (blast.Order("echo", 3, per_association=1), 1, 0, 3),
        (blast.Order("nothing", 3), 1, 0, 3),
    ],
)
def test_pynetdicom_receives_what_is_ordered(order: blast.Order, senders: int, stored: int, associations: int) -> None:
    received: list[str] = []
    opened: list[int] = []
    lock = threading.Lock()

    def on_store(event: evt.Event) -> int:
        with lock:
            received.append(event.dataset.SOPInstanceUID)
            assert len(event.dataset.PixelData) == order.size
        return 0x0000

    with receiving([(evt.EVT_C_STORE, on_store), (evt.EVT_ACCEPTED, lambda event: opened.append(1))]) as port:
        figures = blast.blast(order, blast.Receiver(port, timeout=20), senders)
    assert figures["failed"] == 0
    assert figures["count"] == order.count * senders
    assert figures["associations"] == associations
    assert len(set(received)) == len(received) == stored
    assert len(opened) >= associations


def test_a_failed_status_is_counted() -> None:
    with receiving([(evt.EVT_C_STORE, lambda event: 0xA700)]) as port:
        figures = blast.blast(blast.Order("store", 2, 4096), blast.Receiver(port, timeout=20))
    assert figures["failed"] == 2


def test_a_receiver_that_closes_is_an_error_and_no_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_each() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=close_each)
        thread.start()
        with pytest.raises(BlastError):
            blast.blast(blast.Order("store", 1, 4096), blast.Receiver(listener.getsockname()[1], timeout=10), 2)
        thread.join(10)
        assert not thread.is_alive()


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert blast.percentile(values, 0.5) == 51
    assert blast.percentile(values, 0.99) == 100
    assert blast.percentile([7.0], 0.99) == 7
    assert blast.percentile([], 0.5) == 0
