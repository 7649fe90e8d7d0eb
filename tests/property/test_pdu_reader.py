"""The PDU reader against any bytes, cut anywhere."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from dicomd.upperlayer.reader import PDU, PDUError, PDUReader

CAPACITY = 4096 + 64


def events(chunks: list[bytes]) -> list[object]:
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=20000)
    seen: list[object] = []
    for chunk in chunks:
        at = 0
        while True:
            try:
                event = reader.next_event()
            except PDUError as error:
                seen.append(error.reason)
                continue
            if event is None:
                if at == len(chunk):
                    break
                if reader.must_rewind:
                    reader.rewind()
                count = min(len(reader.space()), len(chunk) - at)
                assert count > 0, "the reader must always find room"
                reader.space()[:count] = chunk[at : at + count]
                reader.received(count)
                at += count
            elif isinstance(event, PDU):
                seen.append(event)
            elif len(event.data) or event.is_last:
                # pieces of one PDV depend on the cutting: join what belongs together
                piece = bytes(event.data)
                if seen and isinstance(seen[-1], list) and seen[-1][0] == event.context_id and not seen[-1][2]:
                    seen[-1][1] += piece
                    seen[-1][2] = event.is_last
                else:
                    seen.append([event.context_id, piece, event.is_last])
    return seen


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
