"""The head scanner finds what pydicom reads, however the Data Set is encoded and cut, and tolerates any bytes."""

import zlib
from io import BytesIO
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicomd.store.errors import DataSetUnreadable
from dicomd.store.head import MAX_VALUE, HeadScanner, wanted_elements
from dicomd.store.head_templates import TemplateCache

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
WANTED = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
OPTIONAL = (0x00080020, 0x00080060)

uids = st.from_regex(r"[1-9][0-9]{0,7}(\.[1-9][0-9]{0,7}){0,6}", fullmatch=True)
texts = st.text("ABCXYZ 0123456789", max_size=30)
private_tags = st.integers(0x0009, 0x001F).filter(lambda group: group % 2).map(lambda group: group << 16 | 0x1001)


@st.composite
def datasets(draw: st.DrawFn, depth: int = 2) -> Dataset:
    """A Data Set with some of the wanted UIDs, text, private elements of any length and sequences among them."""
    dataset = Dataset()
    for tag in WANTED:
        if draw(st.booleans()):
            dataset.add_new(tag, "UI", draw(uids))
    if draw(st.booleans()):
        dataset.add_new(0x00080005, "CS", "ISO_IR 100")
    if draw(st.booleans()):
        dataset.add_new(0x00080020, "DA", draw(st.sampled_from(["20240229", "19991231"])))
    for tag, vr in ((0x00080060, "CS"), (0x00081030, "LO"), (0x00100010, "PN"), (0x00200010, "SH")):
        if draw(st.booleans()):
            dataset.add_new(tag, vr, draw(texts)[: 16 if vr in ("CS", "SH") else 64])
    for tag in draw(st.lists(private_tags, max_size=2)):
        vr = draw(st.sampled_from(["OB", "UN", "LO", "UT"]))
        size = draw(st.sampled_from([0, 2, 100, 5000]))
        dataset.add_new(tag, vr, "x" * min(size, 64) if vr in ("LO", "UT") else bytes(size))
    if draw(st.booleans()):
        dataset.add_new(0x00280010, "US", 512)
    if draw(st.booleans()):
        dataset.add_new(0x7FE00010, "OW", bytes(draw(st.sampled_from([0, 10, 3000]))))
    if depth:
        for tag in draw(st.lists(st.sampled_from([0x00081115, 0x00081140, 0x00091010, 0x00101002]), unique=True)):
            items = draw(st.lists(datasets(depth=depth - 1), max_size=2))
            dataset.add_new(tag, "SQ", Sequence(items))
            dataset[tag].is_undefined_length = draw(st.booleans())
            for item in items:
                item.is_undefined_length_sequence_item = draw(st.booleans())
    return dataset


def encode(dataset: Dataset, syntax: str) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR = syntax == IMPLICIT
    file.is_little_endian = syntax != BIG_ENDIAN
    write_dataset(file, dataset)
    data = file.getvalue()
    if syntax == DEFLATED:
        compressor = zlib.compressobj(wbits=-15)
        data = compressor.compress(data) + compressor.flush()
    return data


def as_pydicom_reads(data: bytes, syntax: str) -> dict[int, str]:
    plain = zlib.decompress(data, -15) if syntax == DEFLATED else data
    dataset = read_dataset(BytesIO(plain), syntax == IMPLICIT, syntax != BIG_ENDIAN)
    return {tag: str(dataset[tag].value or "").strip("\0 ") for tag in (*WANTED, *OPTIONAL) if tag in dataset}


def scan(
    data: bytes,
    syntax: str,
    cuts: list[int],
    memory: TemplateCache | None = None,
    optional: tuple[int, ...] = OPTIONAL,
) -> HeadScanner:
    scanner = HeadScanner(syntax, wanted=wanted_elements(optional, patient_id=memory is not None), templates=memory)
    view = memoryview(data)
    edges = [0, *sorted(cuts), len(data)]
    for start, stop in pairwise(edges):
        scanner.feed(view[start:stop])
    scanner.finish()
    return scanner


def outcome(data: bytes, syntax: str, cuts: list[int], memory: TemplateCache | None = None) -> object:
    try:
        scanner = scan(data, syntax, cuts, memory)
    except DataSetUnreadable as error:
        return error.message
    return scanner.values if memory is None else (scanner.values, scanner.patient_id)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(datasets(), st.sampled_from(SYNTAXES), st.data())
def test_finds_what_pydicom_reads_in_any_cut(dataset: Dataset, syntax: str, data: st.DataObject) -> None:
    encoded = encode(dataset, syntax)
    expected = as_pydicom_reads(encoded, syntax)
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=10))
    for cut in ([], cuts, list(range(len(encoded)))):
        for optional in ((), OPTIONAL):
            wanted = {tag: value for tag, value in expected.items() if tag in (*WANTED, *optional)}
            values = scan(encoded, syntax, cut, optional=optional).values
            assert {tag: value.rstrip(b"\0 ").decode() for tag, value in values.items()} == wanted


@settings(max_examples=500)
@given(st.binary(max_size=400), st.sampled_from(SYNTAXES), st.lists(st.integers(0, 400), max_size=5))
def test_bears_any_bytes(data: bytes, syntax: str, cuts: list[int]) -> None:
    whole = outcome(data, syntax, [])
    some = outcome(data, syntax, [min(cut, len(data)) for cut in cuts])
    bytewise = outcome(data, syntax, list(range(len(data))))
    assert some == bytewise == whole


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(datasets(), st.sampled_from(SYNTAXES), st.data())
def test_bears_data_sets_with_damage(dataset: Dataset, syntax: str, data: st.DataObject) -> None:
    sound = encode(dataset, syntax) or b"\0"
    for _ in range(3):  # making a Data Set takes most of the time
        encoded = bytearray(sound)
        for _ in range(data.draw(st.integers(1, 4))):
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
        damaged = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
        whole = outcome(damaged, syntax, [])
        bytewise = outcome(damaged, syntax, list(range(len(damaged))))
        assert bytewise == whole
        for values in (whole, bytewise):
            assert not isinstance(values, dict) or all(len(value) <= MAX_VALUE for value in values.values())


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(datasets(), st.sampled_from(SYNTAXES), st.data())
def test_what_is_remembered_of_other_heads_changes_nothing(dataset: Dataset, syntax: str, data: st.DataObject) -> None:
    first = encode(dataset, syntax) or b"\0"
    memory = TemplateCache()
    heads = [first, first]
    for _ in range(4):
        other = bytearray(first)
        for _ in range(data.draw(st.integers(0, 3))):
            other[data.draw(st.integers(0, len(other) - 1))] = data.draw(st.integers(0, 255))
        heads.append(bytes(other[: data.draw(st.integers(len(other) // 2, len(other)))]))
    for head in heads:
        assert outcome(head, syntax, [], memory) == outcome(head, syntax, [], TemplateCache())
