"""The head scanner with everything the standard allows, mistakes of real senders, and attacks."""

import struct
import tracemalloc
import zlib

import pytest

from dicomd.store.errors import DataSetUnreadable
from dicomd.store.head import MAX_INFLATED, MAX_NESTING, MAX_VALUE, HeadScanner, wanted_elements
from dicomd.store.head_templates import TemplateCache
from dicomd.tags import MODALITY, STUDY_DATE
from tests.unit.store.instances import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    JPEG_BASELINE,
    SERIES,
    STUDY,
    UNDEFINED,
    data_set,
    element,
    head,
    item,
)

ALL = {0x00080016: CT_IMAGE_STORAGE, 0x00080018: INSTANCE, 0x0020000D: STUDY, 0x0020000E: SERIES}


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def scan(data: bytes, syntax: str = EXPLICIT, step: int | None = None) -> HeadScanner:
    scanner = HeadScanner(syntax)
    view = memoryview(data)
    for at in range(0, len(data), step or len(data) or 1):
        if scanner.feed(view[at : at + (step or len(data))]):
            break
    scanner.finish()
    return scanner


def found(data: bytes, syntax: str = EXPLICIT) -> dict[int, str]:
    """The values found, which must be the same for any step size."""
    results = [
        {tag: value.rstrip(b"\0 ").decode("latin-1") for tag, value in scan(data, syntax, step).values.items()}
        for step in (None, 1, 7, 96, 97)
    ]
    assert all(result == results[0] for result in results)
    return results[0]


def unreadable(data: bytes, syntax: str = EXPLICIT) -> str:
    messages = set()
    for step in (None, 1, 13):
        with pytest.raises(DataSetUnreadable) as caught:
            scan(data, syntax, step)
        messages.add(caught.value.message)
    assert len(messages) == 1
    return messages.pop()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG_BASELINE, "1.2.3.private"])
def test_the_four_uids_are_found_in_every_encoding(syntax: str) -> None:
    assert found(data_set(syntax=syntax), syntax) == ALL


def test_the_four_uids_are_found_in_a_deflated_data_set() -> None:
    assert found(deflated(data_set(pixels=bytes(100_000))) + b"\0", DEFLATED) == ALL


def test_the_scan_ends_before_the_rest_of_the_data_set() -> None:
    scanner = HeadScanner(EXPLICIT)
    assert scanner.feed(head())
    assert scanner.feed(b"\xff" * 100)
    scanner.finish()


def test_the_scan_ends_at_the_first_element_beyond_the_series() -> None:
    data = head(series=None) + element(0x00200010, "SH", "1") + head()
    assert found(data) == {tag: uid for tag, uid in ALL.items() if tag != 0x0020000E}


def test_missing_elements_are_just_not_there() -> None:
    assert found(element(0x00100010, "PN", "A^B")) == {}
    assert found(b"") == {}
    assert found(head(instance=None)) == {tag: uid for tag, uid in ALL.items() if tag != 0x00080018}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_group_lengths_are_passed_over(syntax: str) -> None:
    order = ">" if syntax == BIG_ENDIAN else "<"
    length = struct.pack(f"{order}I", 100)
    data = element(0x00080000, "UL", length, syntax) + head(study=None, series=None, syntax=syntax)
    data += element(0x00200000, "UL", length, syntax) + head(None, None, syntax=syntax)
    assert found(data, syntax) == ALL


@pytest.mark.parametrize("vr", ["LO", "UN", "OB", "UT", "SH", "ZZ"])
def test_a_wrong_vr_does_not_hide_the_value(vr: str) -> None:
    value = element(0x00080018, vr, INSTANCE + "\0")
    if vr == "ZZ":  # not one of the VRs with a 16-bit length, so it has a 32-bit one (PS3.5 §7.1.2)
        value = struct.pack("<HH2sHI", 8, 0x18, b"ZZ", 0, len(INSTANCE)) + INSTANCE.encode()
    assert found(head(instance=None, study=None, series=None) + value + head(None, None)) == ALL


def test_an_unknown_vr_has_the_long_form() -> None:
    unknown = struct.pack("<HH2sHI", 9, 0x1001, b"QX", 0, 6) + b"abcdef"
    assert found(head(study=None, series=None) + unknown + head(None, None)) == ALL


def test_question_marks_for_a_vr_have_the_short_form() -> None:
    unknown = struct.pack("<HH2sH", 9, 0x1001, b"??", 6) + b"abcdef"
    assert found(head(study=None, series=None) + unknown + head(None, None)) == ALL


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0\0", b""])
def test_padding_stays_in_the_value(padding: bytes) -> None:
    scanner = scan(element(0x00080018, "UI", b"1.2" + padding))
    assert scanner.values == {0x00080018: b"1.2" + padding}


def test_an_odd_length_is_taken_as_it_is() -> None:
    assert found(element(0x00080016, "UI", b"1.2.3") + element(0x00080018, "UI", b"1.2.3.4")) == {
        0x00080016: "1.2.3",
        0x00080018: "1.2.3.4",
    }


def test_a_zero_length_value_is_empty() -> None:
    assert found(element(0x00080018, "UI", b"")) == {0x00080018: ""}


def test_of_an_overlong_value_only_the_beginning_is_kept() -> None:
    data = element(0x00080018, "UI", b"1" * 60_000) + head(None, None)
    for step in (None, 1, 1000):
        scanner = scan(data, step=step)
        assert scanner.values[0x00080018] == b"1" * MAX_VALUE
        assert scanner.values[0x0020000D].rstrip(b"\0") == STUDY.encode()


@pytest.mark.parametrize("tag", [0x00080016, 0x00080018, 0x0020000D, 0x0020000E])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("padding", [b"\0", b" "])
@pytest.mark.parametrize("behind", [b"\\1.2.9", b"1.2.9", b"9"])
def test_text_behind_the_padding_of_a_uid_is_unreadable(syntax: str, tag: int, padding: bytes, behind: bytes) -> None:
    """DCMTK leaves out the spaces between, and pydicom takes a backslash for the beginning of another value."""
    data = {uid_tag: element(uid_tag, "UI", uid, syntax) for uid_tag, uid in ALL.items()}
    for size in (MAX_VALUE, MAX_VALUE + 1, 200, 3000):
        padded = ALL[tag].encode().ljust(size, padding)
        data[tag] = element(tag, "UI", padded, syntax)
        assert found(b"".join(data.values()), syntax) == ALL
        data[tag] = element(tag, "UI", padded + behind, syntax)
        assert unreadable(b"".join(data.values()), syntax) == "UID is followed by something other than padding"


def test_a_deflated_stream_that_readers_take_for_file_meta_information_is_unreadable() -> None:
    """They read its first bytes as an element of group 0002, and inflate what that one leaves."""
    stored = head() + bytes(0xB6AA - len(head()))
    data = b"\2\0" + struct.pack("<HH", len(stored), len(stored) ^ 0xFFFF) + stored + b"\3\0"
    assert zlib.decompress(data, -15) == stored
    assert unreadable(data, DEFLATED) == "Deflated Data Set begins like File Meta Information"


def test_a_huge_private_value_ahead_is_skipped_without_being_kept() -> None:
    scanner = HeadScanner(EXPLICIT)
    scanner.feed(head(study=None, series=None) + element(0x00091001, "OB", b"", length=3 << 30))
    chunk = memoryview(bytes(1 << 24))
    for _ in range((3 << 30) // len(chunk)):
        assert not scanner.feed(chunk)
    assert scanner.feed(head(None, None))
    assert len(scanner.values) == 4


def sequence(syntax: str, *, items: bytes, vr: str = "SQ", tag: int = 0x00081115, order: str | None = None) -> bytes:
    own = order or (">" if syntax == BIG_ENDIAN else "<")
    return element(tag, vr, b"", syntax, length=UNDEFINED) + items + item(0xE0DD, 0, own)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_sequences_of_undefined_length_are_passed_over_with_all_they_hold(syntax: str) -> None:
    order = ">" if syntax == BIG_ENDIAN else "<"
    inner = element(0x00081150, "UI", "9.9", syntax) + head("7.7", "8.8", "9.9", "6.6", syntax)
    undefined_item = item(0xE000, UNDEFINED, order) + inner + item(0xE00D, 0, order)
    defined_item = item(0xE000, len(inner), order) + inner
    nested = sequence(syntax, items=undefined_item + defined_item, tag=0x00081199)
    outer = item(0xE000, UNDEFINED, order) + inner + nested + inner + item(0xE00D, 0, order)
    private = element(0x00091002, "OB", b"x" * 50, syntax)
    data = head(study=None, series=None, syntax=syntax)
    data += sequence(syntax, items=defined_item + outer + undefined_item) + private + sequence(syntax, items=b"")
    assert found(data + head(None, None, syntax=syntax), syntax) == ALL


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
def test_un_of_undefined_length_is_implicit_little_endian_inside(syntax: str) -> None:
    inner = head("7.7", "8.8", "9.9", "6.6", IMPLICIT)
    items = item(0xE000, UNDEFINED) + inner + sequence(IMPLICIT, items=b"") + item(0xE00D, 0)
    data = head(study=None, series=None, syntax=syntax)
    data += sequence(syntax, items=items, vr="UN", tag=0x00091010, order="<")
    assert found(data + head(None, None, syntax=syntax), syntax) == ALL


def test_encapsulated_fragments_inside_a_sequence_are_passed_over() -> None:
    icon = element(0x7FE00010, "OB", b"", length=UNDEFINED)
    icon += item(0xE000, 0) + item(0xE000, 6) + b"\xff\xd8\xff\xff\xff\xd9" + item(0xE0DD, 0)
    items = item(0xE000, UNDEFINED) + icon + item(0xE00D, 0)
    assert found(sequence(EXPLICIT, items=items, tag=0x00091010) + head(None, None))[0x0020000D] == STUDY


def test_elements_out_of_order_are_found_while_nothing_is_beyond_the_series() -> None:
    data = head(None, None) + element(0x00100010, "PN", "A^B") + head(study=None, series=None)
    assert found(data) == ALL


def test_an_element_that_comes_twice_alike_is_no_problem_and_with_another_value_is_unreadable() -> None:
    twice = element(0x00080018, "UI", INSTANCE)
    assert found(twice + head()) == ALL
    assert unreadable(element(0x00080018, "UI", "1.2") + head()) == "Element occurs twice, and differs"


def test_an_encoding_other_than_the_announced_is_seen_in_the_first_element() -> None:
    assert found(data_set(syntax=IMPLICIT), JPEG_BASELINE) == ALL
    assert found(data_set(syntax=EXPLICIT), IMPLICIT) == ALL


@pytest.mark.parametrize("length", [1, 3, 7, 8, 11])
def test_a_data_set_that_ends_inside_an_element_is_unreadable(length: int) -> None:
    assert unreadable(head(study=None, series=None)[:length]) == "Data Set ends inside an element"


def test_a_value_that_is_longer_than_the_data_set_is_unreadable() -> None:
    assert unreadable(element(0x00080005, "CS", b"ISO", length=10)) == "Data Set ends inside an element"
    assert unreadable(element(0x00080018, "UI", b"1.2", length=10)) == "Data Set ends inside an element"
    assert unreadable(element(0x00080018, "UT", b"", length=10)[:11]) == "Data Set ends inside an element"


def test_an_open_sequence_at_the_end_is_unreadable() -> None:
    assert unreadable(element(0x00081115, "SQ", b"", length=UNDEFINED)) == "Data Set ends inside an element"


@pytest.mark.parametrize(
    "data",
    [
        bytes(128) + b"DICM" + head(),
        item(0xE000, 0),
        item(0xE0DD, 0) + head(),
        sequence(EXPLICIT, items=element(0x00080018, "UI", INSTANCE)),
        sequence(EXPLICIT, items=item(0xE00D, 0)),
        sequence(EXPLICIT, items=item(0xE000, UNDEFINED)),
        sequence(EXPLICIT, items=item(0xE000, UNDEFINED) + item(0xE0DD, 0)),
    ],
)
def test_what_is_no_data_set_is_unreadable(data: bytes) -> None:
    unreadable(data)


@pytest.mark.parametrize("tag", [0x00000002, 0x00020010, 0x00041130, 0x00060010])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_an_element_of_another_part_of_the_standard_is_unreadable_and_named(syntax: str, tag: int) -> None:
    """PS3.5 §7.1: readers would take the Transfer Syntax of such a (0002,0010), and it isn't the negotiated one."""
    misplaced = element(tag, "UI", EXPLICIT, syntax)
    for before in (b"", element(0x00080005, "CS", "ISO_IR 100", syntax)):
        with pytest.raises(DataSetUnreadable) as caught:
            scan(before + misplaced + head(syntax=syntax), syntax)
        assert caught.value.element == tag


@pytest.mark.parametrize("tag", [0x00000002, 0x00020010, 0x00041220, 0x00060010])
@pytest.mark.parametrize("vr", [b"SQ", b"UN"])
def test_such_a_sequence_of_undefined_length_is_none_in_a_data_set_either(vr: bytes, tag: int) -> None:
    """With such a (0002,0010), pydicom would read no Transfer Syntax."""
    misplaced = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, UNDEFINED)
    for data in (misplaced + item(0xE0DD, 0) + head(), head(series=None) + misplaced + item(0xE0DD, 0) + head()):
        assert "Data Set holds an element of" in unreadable(data)
        lenient = HeadScanner(EXPLICIT, lenient=True)
        lenient.feed(data)
        assert lenient.fault is not None
        assert lenient.fault.element == tag
        assert {tag: value.rstrip(b"\0").decode() for tag, value in lenient.values.items()} == ALL


@pytest.mark.parametrize("vr", [b"\0\0", b"  ", b"--", b"a ", b"??"])
def test_what_is_no_vr_has_the_short_form_as_toolkits_read_it(vr: bytes) -> None:
    odd = struct.pack("<HH2sH", 9, 1, vr, 4) + b"ABCD"
    assert found(element(0x00080005, "CS", "ISO_IR 100") + odd + head()) == ALL
    inside = sequence(EXPLICIT, items=item(0xE000, UNDEFINED) + odd + item(0xE00D, 0))
    assert found(element(0x00080005, "CS", "ISO_IR 100") + inside + head()) == ALL


@pytest.mark.parametrize("hidden", [b"", b"A" * 0x26, head()])
def test_a_change_to_implicit_vr_halfway_is_unreadable(hidden: bytes) -> None:
    """Readers would see different elements behind it: pydicom follows the change, and DCMTK doesn't."""
    implicit = struct.pack("<HHI", 9, 0x1001, len(hidden) or 0x40) + hidden
    other = head(instance="1.2.9")
    message = "Data Set changes to Implicit VR within"
    assert unreadable(element(0x00080005, "CS", "ISO_IR 100") + implicit + other) == message
    inside = sequence(EXPLICIT, items=item(0xE000, UNDEFINED) + implicit + item(0xE00D, 0))
    assert unreadable(element(0x00080005, "CS", "ISO_IR 100") + inside + other) == message


@pytest.mark.parametrize("length", [4, 8, UNDEFINED])
def test_a_delimiter_with_a_length_ends_what_it_ends(length: int) -> None:
    """PS3.5 §7.5.2 says 0, and no value follows another length either."""
    begun = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, UNDEFINED) + item(0xE000, UNDEFINED)
    assert found(begun + item(0xE00D, length) + item(0xE0DD, 0) + head()) == ALL
    assert found(begun + item(0xE00D, 0) + item(0xE0DD, length) + head()) == ALL


@pytest.mark.parametrize("depth", [MAX_NESTING // 2, MAX_NESTING // 2 + 1])
def test_nesting_is_bounded(depth: int) -> None:
    opening = element(0x00081115, "SQ", b"", length=UNDEFINED) + item(0xE000, UNDEFINED)
    data = opening * depth + (item(0xE00D, 0) + item(0xE0DD, 0)) * depth + head()
    if depth <= MAX_NESTING // 2:
        assert found(data) == ALL
    else:
        assert unreadable(data) == "Sequences are nested too deeply"


def test_a_decompression_bomb_ends_at_the_limit() -> None:
    private = element(0x00091001, "OB", bytes(MAX_INFLATED * 4))
    scanner = HeadScanner(DEFLATED)
    with pytest.raises(DataSetUnreadable, match="too long"):
        scanner.feed(deflated(private))


def test_what_is_not_deflated_is_unreadable() -> None:
    assert unreadable(b"\xff" * 100, DEFLATED) == "Data Set is not a deflated stream"
    unreadable(zlib.compress(head(series=None)), DEFLATED)  # with a zlib header, which PS3.5 §A.5 does not have
    compressor = zlib.compressobj(wbits=-15)
    endless = compressor.compress(head(series=None)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert unreadable(endless, DEFLATED) == "Deflated Data Set is truncated"


def test_padding_after_the_deflated_stream_is_not_hoarded() -> None:
    scanner = HeadScanner(DEFLATED)
    scanner.feed(deflated(head(series=None)))
    tracemalloc.start()
    try:
        for _ in range(100):
            scanner.feed(bytes(10_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000  # one fragment, and little beside it
    scanner.finish()


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_patient_id_is_kept_only_where_it_is_wanted(step: int) -> None:
    before_study, study, behind = head().partition(element(0x0020000D, "UI", STUDY))
    data = before_study + element(0x00100020, "LO", "4711") + study + behind
    for wanted, expected in ((False, b""), (True, b"4711")):
        scanner = HeadScanner(EXPLICIT, wanted=wanted_elements(patient_id=wanted))
        for at in range(0, len(data), step):
            scanner.feed(data[at : at + step])
        scanner.finish()
        assert scanner.values == scan(head()).values
        assert scanner.patient_id == expected


OPTIONAL = {STUDY_DATE: b"20240229", MODALITY: b"CT"}


def with_optional(*, date: bytes = b"20240229", modality: bytes = b"CT", syntax: str = EXPLICIT) -> bytes:
    whole = head(syntax=syntax)
    before = whole.index(element(0x0020000D, "UI", STUDY, syntax))
    wanted = element(STUDY_DATE, "DA", date, syntax) + element(MODALITY, "CS", modality, syntax)
    return whole[:before] + wanted + whole[before:] + element(0x00200010, "SH", b"1", syntax)


def scan_for(optional: tuple[int, ...], data: bytes, step: int = 10_000, syntax: str = EXPLICIT) -> HeadScanner:
    scanner = HeadScanner(syntax, wanted=wanted_elements(optional))
    for at in range(0, len(data), step):
        if scanner.feed(data[at : at + step]):
            break
    scanner.finish()
    return scanner


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_date_and_modality_are_kept_only_where_they_are_wanted(step: int, syntax: str) -> None:
    uids = scan(head()).values
    for optional in ((), (STUDY_DATE,), (MODALITY,), (STUDY_DATE, MODALITY)):
        found = scan_for(optional, with_optional(syntax=syntax), step, syntax)
        assert found.values == uids | {tag: OPTIONAL[tag] for tag in optional}


def test_a_scan_goes_on_for_what_may_follow_but_not_beyond_the_head() -> None:
    fed = [head()[:-30], head()[-30:], element(0x00200010, "SH", b"1"), element(0x7FE00010, "OW", bytes(100))]
    for optional, last in (((), 1), ((MODALITY,), 2)):
        scanner = HeadScanner(EXPLICIT, wanted=wanted_elements(optional))
        assert [scanner.feed(piece) for piece in fed].index(True) == last
        assert MODALITY not in scanner.values


@pytest.mark.parametrize("step", [1, 10_000])
def test_what_may_be_absent_makes_nothing_unreadable(step: int) -> None:
    """Only the first counts, and nobody looks at what follows the part that is kept."""
    long = b"CT" + b" " * 198 + b"X "
    data = element(STUDY_DATE, "DA", b"20240229") + with_optional(date=b"19990101", modality=long)
    found = scan_for((STUDY_DATE, MODALITY), data, step).values
    assert found[MODALITY] == long[:MAX_VALUE]
    assert found[STUDY_DATE] == b"20240229"


def test_nothing_else_can_be_wanted() -> None:
    with pytest.raises(ValueError, match="only"):
        wanted_elements((0x00100010,))


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_an_element_that_comes_again_and_again_is_not_hoarded(syntax: str) -> None:
    scanner = HeadScanner(syntax, templates=TemplateCache())
    again, compressor = element(0x00080016, "UI", b"") * 1000, zlib.compressobj(wbits=-15)
    pieces = [compressor.compress(again) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(25)]
    tracemalloc.start()
    try:
        for piece in pieces:
            scanner.feed(piece if syntax == DEFLATED else again)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 250_000  # bytes, for 25,000 elements
