"""The receive buffers: how many large ones there are, and for how many bytes a read waits."""

from __future__ import annotations

import pytest

from dicomd.net.buffers import FURTHER_BUFFER, LARGE_BUFFER, SMALL_BUFFER, BufferPool, ReceiveBuffers, bytes_to_await
from dicomd.upperlayer.reader import PDUReader
from tests.support.encoding import p_data, pdv


def new_reader(buffers: ReceiveBuffers) -> PDUReader:
    reader = PDUReader(buffers.small, max_pdu=1 << 20)
    reader.expect_data()
    return reader


def receive(reader: PDUReader, data: bytes) -> None:
    reader.space()[: len(data)] = data
    reader.received(len(data))


def test_a_pool_has_few_large_buffers_and_small_ones_beyond_them() -> None:
    pool = BufferPool(2)
    lent = [pool.borrow() for _ in range(5)]
    assert [len(buffer) for buffer in lent] == [LARGE_BUFFER] * 2 + [FURTHER_BUFFER] * 3
    for buffer in reversed(lent):
        pool.give_back(buffer)
    again = [pool.borrow() for _ in range(5)]
    assert {id(buffer) for buffer in again[:4]} <= {id(buffer) for buffer in lent}
    assert [len(buffer) for buffer in again] == [LARGE_BUFFER] * 2 + [FURTHER_BUFFER] * 3


def test_an_emptied_pool_makes_large_ones_again_but_no_more_than_before() -> None:
    pool = BufferPool(2)
    kept, returned = pool.borrow(), pool.borrow()
    pool.give_back(returned)
    pool.empty()
    assert [len(pool.borrow()) for _ in range(2)] == [LARGE_BUFFER, FURTHER_BUFFER]
    pool.give_back(kept)
    assert pool.borrow() is kept


def test_a_buffer_with_unread_bytes_is_kept_until_the_end() -> None:
    pool = BufferPool(1)
    buffers = ReceiveBuffers(pool)
    reader = new_reader(buffers)
    buffers.enlarge(reader)
    receive(reader, bytes(SMALL_BUFFER))
    buffers.shrink(reader)
    assert buffers.large is not None
    large = buffers.large
    buffers.give_back()
    buffers.give_back()
    assert buffers.large is None
    assert pool.borrow() is large
    assert len(pool.borrow()) == FURTHER_BUFFER


@pytest.mark.parametrize(("size", "arrived", "awaited"), [
    (300_000, 0, 300_000 - 65_536),
    (300_000, 100_000, 200_000 - 65_536),
    (300_000, 210_000, 0),  # so little is left that the peer may keep it back
    (300_000, 300_000, 0),
    (60_000, 100, 0),
])  # fmt: skip
def test_a_read_waits_for_what_the_peer_surely_sends(size: int, arrived: int, awaited: int) -> None:
    pdu = p_data(pdv(1, 0, bytes(size)))
    buffers = ReceiveBuffers(BufferPool())
    reader = new_reader(buffers)
    header = len(pdu) - size
    receive(reader, pdu[:header])
    assert reader.next_fragments() == []
    assert reader.next_event() is None
    buffers.enlarge(reader)
    receive(reader, pdu[header : header + arrived])
    assert bytes_to_await(reader) == awaited


def test_between_pdus_no_read_waits() -> None:
    buffers = ReceiveBuffers(BufferPool())
    reader = new_reader(buffers)
    assert bytes_to_await(reader) == 0
    receive(reader, p_data(pdv(1, 0, bytes(100))) + b"\4\0")
    assert len(reader.next_fragments()) == 1
    assert bytes_to_await(reader) == 0
