"""The PDU reader with any bytes, cut anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from dicomd.upperlayer.reader import P_DATA_STARTED, PDUError, PDUReader
from tests.support.encoding import p_data, pdu, pdv
from tests.support.reading import fed, joined

CAPACITY = 4096 + 64


def events(chunks: list[bytes], *, p_data: bool = True, data_expected: bool = False) -> list[object]:
    """The reader's events for the chunks; unless `p_data`, without the beginnings of P-DATA-TFs."""
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=20000)
    if data_expected:
        reader.expect_data()
    told = (event.reason if isinstance(event, PDUError) else event for event in fed(reader, chunks))
    return joined(event for event in told if p_data or event != P_DATA_STARTED)


# PDVs that the fast path reads, and those that are nearly so: with other flags or contexts, or empty.
single_pdvs = st.lists(
    st.tuples(
        st.integers(1, 2), st.sampled_from([3, 3, 0, 0, 2, 2, 1, 6, 7]), st.binary(max_size=300)
    ).map(lambda t: p_data(pdv(*t))),
    max_size=6,
).map(b"".join)  # fmt: skip
pdus = st.one_of(
    single_pdvs,
    st.binary(max_size=300),
    st.tuples(st.integers(0, 9), st.binary(max_size=500)).map(lambda t: pdu(*t)),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=6000)), min_size=1, max_size=3).map(
        lambda pdvs: p_data(*(pdv(*each) for each in pdvs))
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
