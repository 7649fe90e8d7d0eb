"""The PDU reader: given whole streams, one byte at a time, and everything that isn't a PDU."""

import struct

import pytest

from dicomd.aborts import AbortReason
from dicomd.upperlayer.pdus import LAST, PDUType
from dicomd.upperlayer.reader import MAX_ASSOCIATE_RQ, PDU, SMALLEST_SPACE, Fragment, PDUError, PDUReader
from tests.support.encoding import p_data, pdu, pdv
from tests.support.reading import fed, joined

CAPACITY = 8192


Seen = tuple[str, object]


def cut(stream: bytes, step: int) -> list[bytes]:
    return [stream[at : at + step] for at in range(0, len(stream), step)]


def read(
    stream: bytes, step: int, *, max_pdu: int = 65536, capacity: int = CAPACITY, data_expected: bool = False
) -> list[Seen]:
    """The events for `stream`, given `step` bytes at a time; the fragments of a PDV are joined."""
    reader = PDUReader(memoryview(bytearray(capacity)), max_pdu=max_pdu)
    if data_expected:
        reader.expect_data()
    seen: list[Seen] = []
    parts: list[bytes] = []
    for event in fed(reader, cut(stream, step), short_way=False):
        if isinstance(event, PDUError):
            seen.append(("error", event.reason))
        elif isinstance(event, PDU):
            seen.append(("pdu", (event.pdu_type, event.body)))
        else:
            parts.append(bytes(event.data))
            if not reader.pdv_left:
                seen.append(("pdv", (event.context_id, event.control, b"".join(parts))))
                parts = []
            else:
                assert not event.control & LAST
    return seen


STREAM = (
    pdu(PDUType.A_ASSOCIATE_RQ, bytes(range(200)))
    + p_data(pdv(1, 3, b"command"))
    + p_data(pdv(1, 0, b"a" * 5000), pdv(1, 0, b""), pdv(1, 2, b"b" * 30000))
    + p_data(pdv(3, 1, b"c"), pdv(3, 3, b"d"))
    + p_data(pdv(3, 2, b""))
    + p_data(pdv(3, 3, b"e"))
    + p_data(pdv(3, 0, b"f" * 9000))
    + p_data(pdv(3, 0, b"g" * 500))
    + p_data(pdv(3, 2, b"h" * 60000))
    + p_data(pdv(1, 3, b"i"))
    + p_data(pdv(1, 3, b"j"))
    + pdu(PDUType.A_RELEASE_RQ, bytes(4))
)
EXPECTED = [
    ("pdu", (1, bytes(range(200)))),
    ("pdu", (4, b"")),
    ("pdv", (1, 3, b"command")),
    ("pdu", (4, b"")),
    ("pdv", (1, 0, b"a" * 5000)),
    ("pdv", (1, 0, b"")),
    ("pdv", (1, 2, b"b" * 30000)),
    ("pdu", (4, b"")),
    ("pdv", (3, 1, b"c")),
    ("pdv", (3, 3, b"d")),
    ("pdu", (4, b"")),
    ("pdv", (3, 2, b"")),
    ("pdu", (4, b"")),
    ("pdv", (3, 3, b"e")),
    ("pdu", (4, b"")),
    ("pdv", (3, 0, b"f" * 9000)),
    ("pdu", (4, b"")),
    ("pdv", (3, 0, b"g" * 500)),
    ("pdu", (4, b"")),
    ("pdv", (3, 2, b"h" * 60000)),
    ("pdu", (4, b"")),
    ("pdv", (1, 3, b"i")),
    ("pdu", (4, b"")),
    ("pdv", (1, 3, b"j")),
    ("pdu", (5, bytes(4))),
]
WITHOUT_P_DATA = [event for event in EXPECTED if event != ("pdu", (4, b""))]


def assert_the_short_way_leads_to_the_same(stream: bytes, step: int, *, capacity: int = CAPACITY) -> None:
    """The fast path may cut fragments differently, but must not differ otherwise."""
    told = []
    for short_way in (False, True):
        reader = PDUReader(memoryview(bytearray(capacity)), max_pdu=65536)
        reader.expect_data()
        events = joined(fed(reader, cut(stream, step), short_way=short_way))
        told.append([("error", event.reason) if isinstance(event, PDUError) else event for event in events])
    assert told[0] == told[1]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 64, 4095, 4096, 8192, 10**6])
@pytest.mark.parametrize("capacity", [4096 + 16, CAPACITY, 262144])
def test_the_same_events_however_the_bytes_are_cut(step: int, capacity: int) -> None:
    assert read(STREAM, step, capacity=capacity) == EXPECTED
    assert read(STREAM, step, capacity=capacity, data_expected=True) == WITHOUT_P_DATA
    assert_the_short_way_leads_to_the_same(STREAM, step, capacity=capacity)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4, 10**6])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (pdu(0, b"abc"), AbortReason.UNRECOGNIZED_PDU),
        (pdu(8, b""), AbortReason.UNRECOGNIZED_PDU),
        (pdu(255, bytes(70000)), AbortReason.UNRECOGNIZED_PDU),
        (pdu(PDUType.A_ASSOCIATE_RQ, bytes(67)), AbortReason.INVALID_PDU_PARAMETER),
        (pdu(PDUType.A_ASSOCIATE_RQ, bytes(MAX_ASSOCIATE_RQ + 1)), AbortReason.INVALID_PDU_PARAMETER),
        (pdu(PDUType.A_RELEASE_RQ, bytes(5)), AbortReason.INVALID_PDU_PARAMETER),
        (pdu(PDUType.A_ABORT, b""), AbortReason.INVALID_PDU_PARAMETER),
        (pdu(PDUType.P_DATA_TF, b""), AbortReason.INVALID_PDU_PARAMETER),
        (pdu(PDUType.P_DATA_TF, b"12345"), AbortReason.INVALID_PDU_PARAMETER),
        (pdu(PDUType.P_DATA_TF, bytes(65537)), AbortReason.INVALID_PDU_PARAMETER),
        (p_data(struct.pack(">IBB", 1, 1, 0)), AbortReason.INVALID_PDU_PARAMETER),
        (p_data(struct.pack(">IBB", 100, 1, 0) + b"short"), AbortReason.INVALID_PDU_PARAMETER),
        (p_data(struct.pack(">IBB", 0xFFFFFFFF, 1, 0) + b"huge"), AbortReason.INVALID_PDU_PARAMETER),
    ],
)
def test_a_bad_pdu_is_told_and_passed_over(bad: bytes, reason: AbortReason, step: int) -> None:
    seen = [event for event in read(bad + STREAM, step) if event != ("pdu", (4, b""))]
    assert seen == [("error", reason), ("pdu", (1, b"")), *WITHOUT_P_DATA[1:]]
    assert read(bad + STREAM, step, data_expected=True) == seen
    assert_the_short_way_leads_to_the_same(bad + STREAM, step)


def test_bytes_behind_the_last_pdv_are_an_error() -> None:
    seen = read(p_data(pdv(1, 0, b"x"), b"12345") + pdu(PDUType.A_RELEASE_RQ, bytes(4)), 3)
    assert seen[1:] == [
        ("pdv", (1, 0, b"x")),
        ("error", AbortReason.INVALID_PDU_PARAMETER),
        ("pdu", (5, bytes(4))),
    ]


def test_a_data_set_is_not_copied() -> None:
    memory = bytearray(CAPACITY)
    reader = PDUReader(memoryview(memory), max_pdu=65536)
    stream = p_data(pdv(1, 2, b"x" * 1000))
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    assert reader.next_event() == PDU(PDUType.P_DATA_TF, b"")
    fragment = reader.next_event()
    assert isinstance(fragment, Fragment)
    assert fragment.data.obj is memory


def test_unread_bytes_move_into_another_buffer() -> None:
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=65536)
    stream = p_data(pdv(1, 2, b"x" * 100)) + p_data(pdv(3, 2, b"y" * 100))
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    reader.next_event()
    assert isinstance(reader.next_event(), Fragment)
    assert reader.unread == 112
    reader.rewind(memoryview(bytearray(4096)))
    assert reader.next_event() == PDU(PDUType.P_DATA_TF, b"")
    fragment = reader.next_event()
    assert isinstance(fragment, Fragment)
    assert bytes(fragment.data) == b"y" * 100
    assert reader.at_boundary


def whole(stream: bytes) -> tuple[list[tuple[int, int, bytes]], PDUReader]:
    """The fragments that the fast path reads from a received stream, and the reader after that."""
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=65536)
    reader.expect_data()
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    return [(context_id, control, bytes(data)) for context_id, control, data in reader.next_fragments()], reader


def test_what_is_whole_is_taken_up_to_the_end_of_a_message() -> None:
    message = p_data(pdv(1, 3, b"command")) + p_data(pdv(1, 0, b"a" * 500)) + p_data(pdv(1, 2, b"b"))
    taken, reader = whole(message + message)
    assert taken == [(1, 3, b"command"), (1, 0, b"a" * 500), (1, 2, b"b")]
    assert reader.unread == len(message)
    assert len(reader.next_fragments()) == 3
    assert reader.at_boundary
    assert reader.next_fragments() == []


@pytest.mark.parametrize(
    "odd",
    [
        p_data(pdv(1, 0, b"x"), pdv(1, 0, b"y")),
        p_data(pdv(1, 0, b"")),
        p_data(pdv(1, 0, b"x" * 70000))[:5000],
        pdu(PDUType.A_RELEASE_RQ, bytes(4)) + p_data(pdv(1, 0, b"x")),
        p_data(struct.pack(">IBB", 100, 1, 0) + b"short"),
    ],
)
def test_what_is_anything_else_is_left_to_the_events(odd: bytes) -> None:
    taken, reader = whole(p_data(pdv(1, 0, b"x")) + odd)
    assert taken == [(1, 0, b"x")]
    assert reader.unread == len(odd)
    assert reader.next_fragments() == []
    assert reader.unread == len(odd)


def test_what_has_begun_is_taken_when_it_is_whole() -> None:
    stream = p_data(pdv(1, 0, b"x")) + p_data(pdv(1, 2, b"not whole"))
    taken, reader = whole(stream[:-1])
    assert taken == [(1, 0, b"x")]
    assert reader.pdv_left == len(b"not whole")
    assert reader.next_fragments() == []
    assert reader.next_event() is None
    reader.space()[:1] = stream[-1:]
    reader.received(1)
    assert [(control, bytes(data)) for _, control, data in reader.next_fragments()] == [(2, b"not whole")]
    assert reader.at_boundary


@pytest.mark.parametrize("step", [1, 1000, 4096, 100_000])
def test_what_is_longer_than_the_buffer_is_taken_in_pieces_of_it(step: int) -> None:
    message = [(1, 3, b"command"), (1, 0, bytes(range(250)) * 200), (1, 2, b"end" * 9000)]
    stream = b"".join(p_data(pdv(*each)) for each in message) * 2
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=65536)
    reader.expect_data()
    taken: list[tuple[int, bytes]] = []
    pieces = 0
    while stream or not reader.at_boundary:
        count = min(step, len(stream), len(reader.space()))
        reader.space()[:count] = stream[:count]
        reader.received(count)
        stream = stream[count:]
        while fragments := reader.next_fragments():
            for _, control, data in fragments:
                pieces += 1
                ended = not taken or taken[-1][0] & 2 or control & 1
                taken.append((control, bytes(data)) if ended else (control, taken.pop()[1] + bytes(data)))
        if reader.must_rewind:
            reader.rewind()
    assert taken == [(3, b"command"), (2, message[1][2] + message[2][2])] * 2
    assert pieces <= 4 + 2 * 77000 // (CAPACITY - SMALLEST_SPACE) + 4


def test_a_command_set_begins_a_list_of_its_own() -> None:
    """So that the caller can stop between any two messages."""
    echo, store = p_data(pdv(3, 3, b"echo")), p_data(pdv(1, 3, b"store")) + p_data(pdv(1, 2, b"data set"))
    taken, reader = whole(echo + echo + store + echo)
    lists = [taken]
    while fragments := reader.next_fragments():
        lists.append([(context_id, control, bytes(data)) for context_id, control, data in fragments])
    of_echo, of_store = [(3, 3, b"echo")], [(1, 3, b"store"), (1, 2, b"data set")]
    assert lists == [of_echo, of_echo, of_store, of_echo]


def test_no_more_than_some_are_taken_at_once() -> None:
    taken, reader = whole(p_data(pdv(1, 0, b"x")) * 200)
    assert 0 < len(taken) < 100
    assert reader.unread == 13 * (200 - len(taken))


def test_before_data_are_expected_nothing_is_taken() -> None:
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=65536)
    stream = p_data(pdv(1, 3, b"command"))
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    assert reader.next_fragments() == []
    assert reader.next_event() == PDU(PDUType.P_DATA_TF, b"")


@pytest.mark.parametrize("kind", [PDUType.A_ASSOCIATE_RQ, PDUType.A_ASSOCIATE_AC])
def test_of_an_association_pdu_out_of_place_nothing_is_kept(kind: int) -> None:
    """It is reported at its header: otherwise an Association would hold 256 KiB for as long as the peer drips."""
    first = pdu(PDUType.A_ASSOCIATE_RQ, bytes(200))
    late = pdu(kind, bytes(MAX_ASSOCIATE_RQ))
    for step in (1000, 100_000):
        reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=65536)
        events = list(fed(reader, cut(first + late[: len(late) // 2], step)))
        assert events == [PDU(1, bytes(200)), PDU(kind, b"")]
        assert reader.body_length == 0
        assert reader.inside_pdu
        assert list(fed(reader, [late[len(late) // 2 :] + pdu(5, bytes(4))])) == [PDU(5, bytes(4))]


def test_an_answer_is_never_collected() -> None:
    reader = PDUReader(memoryview(bytearray(CAPACITY)), max_pdu=65536)
    assert list(fed(reader, [pdu(PDUType.A_ASSOCIATE_AC, bytes(200))])) == [PDU(2, b"")]
