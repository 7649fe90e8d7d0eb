"""The PDU reader against any bytes, cut anywhere."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from dicomd.upperlayer.reader import P_DATA_STARTED, Fragment, PDUError, PDUReader
from tests.support.reading import fed, joined

CAPACITY = 4096 + 64


def events(chunks: list[bytes], *, p_data: bool = True, data_expected: bool = False) -> list[object]:
    """What the reader says of the chunks; without `p_data`, but for the beginnings of P-DATA-TF."""
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=20000)
    if data_expected:
        reader.expect_data()
    told = (event.reason if isinstance(event, PDUError) else event for event in fed(reader, chunks))
    return joined(event for event in told if p_data or event != P_DATA_STARTED)


pdus = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.integers(0, 9), st.binary(max_size=500)).map(lambda t: struct.pack(">BxI", t[0], len(t[1])) + t[1]),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=6000)), min_size=1, max_size=3).map(
        lambda pdvs: (
            struct.pack(">BxI", 4, sum(len(d) + 6 for _, _, d in pdvs))
            + b"".join(struct.pack(">IBB", len(d) + 2, c, f) + d for c, f, d in pdvs)
        )
    ),
)


@given(st.lists(pdus, max_size=5), st.lists(st.integers(1, 5000), max_size=20))
def test_any_bytes_cut_anywhere_mean_the_same(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(stream[at : at + cut])
        at += cut
    chunks.append(stream[at:])
    assert events(chunks) == events([stream])
    assert events(chunks, data_expected=True) == events([stream], p_data=False)


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context_id, control) + data


# Mostly what `whole_message` takes, and all that is nearly so: other flags, contexts, types, order, nothing in it.
nearly_whole = st.tuples(
    st.integers(1, 2), st.sampled_from([3, 3, 3, 1, 7]), st.binary(max_size=40),
    st.integers(1, 2), st.sampled_from([2, 2, 2, 0, 3, 6]), st.binary(max_size=300),
).map(lambda t: pdv(*t[:3]) + pdv(*t[3:]))  # fmt: skip


def fragments(stream: bytes, *, whole: bool) -> list[tuple[object, ...]]:
    """What the stream holds, each fragment apart; `whole` asks for messages wherever the reader stands before one."""
    reader = PDUReader(memoryview(bytearray(16384)), max_pdu=250)
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    seen: list[tuple[object, ...]] = []
    while True:
        if whole and (message := reader.whole_message()) is not None:
            seen.append((message.context_id, True, True, bytes(message.command_set)))
            seen.append((message.context_id, False, True, bytes(message.data_set)))
            reader.take(message)
            continue
        try:
            event = reader.next_event()
        except PDUError as error:
            seen.append((error.reason,))
            continue
        if event is None:
            return seen
        if isinstance(event, Fragment):
            seen.append((*event[:3], bytes(event.data)))
        elif event.pdu_type != 4:
            seen.append((event,))


@given(st.lists(st.one_of(nearly_whole, nearly_whole, pdus), max_size=5).map(b"".join), st.integers(0, 12))
def test_whole_messages_are_what_the_events_would_have_been(stream: bytes, cut: int) -> None:
    stream = stream[: len(stream) - cut][:16384]
    assert fragments(stream, whole=True) == fragments(stream, whole=False)
