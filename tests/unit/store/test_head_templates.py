"""Heads of the same structure are recognised, and no others."""

from __future__ import annotations

import pytest

from dicomd.store.errors import DataSetUnreadable
from dicomd.store.head import HeadScanner, wanted_elements
from dicomd.store.head_templates import TemplateCache, cache_for
from dicomd.tags import MODALITY, STUDY_DATE
from tests.support.cost import calls
from tests.support.encoding import element

EXPLICIT = "1.2.840.10008.1.2.1"
SERIES = 0x0020000E


def head(instance: bytes, *, time: bytes = b"101500", patient: bytes = b"P1", series: bytes = b"1.3") -> bytes:
    return b"".join(
        (
            element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
            element(0x00080018, "UI", instance),
            element(0x00080030, "TM", time),
            element(0x00100020, "LO", patient),
            element(0x0020000D, "UI", b"1.2\0"),
            element(SERIES, "UI", series + b"\0" * (len(series) % 2)),
            element(0x00280010, "US", b"\0\2"),
        )
    )


def scan(data: bytes, known: TemplateCache) -> HeadScanner:
    scanner = HeadScanner(EXPLICIT, wanted=wanted_elements(patient_id=True), templates=known)
    scanner.feed(memoryview(data))
    scanner.finish()
    return scanner


@pytest.fixture
def known() -> TemplateCache:
    """A cache that has seen two heads of the same structure."""
    found = TemplateCache()
    for instance in (b"1.10", b"1.11"):
        assert found.template is None
        scan(head(instance), found)
    return found


def test_a_head_built_like_the_last_two_is_read_without_a_scan(known: TemplateCache) -> None:
    scanner = scan(head(b"1.12", time=b"235959", patient=b"P2", series=b"1.4"), known)
    assert scanner.complete
    assert scanner.values[0x00080018] == b"1.12"
    assert scanner.values[SERIES] == b"1.4\0"
    assert scanner.patient_id == b"P2"
    longer, known_longer = element(0x00080005, "CS", b"") * 100, TemplateCache()
    for instance in (b"1.10", b"1.11"):
        scan(longer + head(instance), known_longer)
    cost = calls(lambda: scan(head(b"1.12"), known))
    assert calls(lambda: scan(longer + head(b"1.12"), known_longer)) == cost  # a scan makes calls for each element
    assert calls(lambda: scan(longer + head(b"1.12"), TemplateCache())) > cost + 100


@pytest.mark.parametrize(
    "data",
    [
        head(b"1.1234"),
        head(b"1.12").replace(b"TM", b"DA"),
        head(b"1.12").replace(b"\x08\x00\x30\x00", b"\x08\x00\x31\x00"),
        head(b"1.12", time=b"10"),
    ],
    ids=["longer", "another VR", "another tag", "shorter"],
)
def test_a_head_built_otherwise_is_scanned(known: TemplateCache, data: bytes) -> None:
    before = known.template
    for _ in range(3):
        assert scan(data, known).values == scan(data, TemplateCache()).values
    assert known.template is not before


def test_a_head_that_ends_early_is_no_match(known: TemplateCache) -> None:
    data = head(b"1.12")
    with pytest.raises(DataSetUnreadable, match="ends inside an element"):
        scan(data[: data.index(b"1.3\0") + 2], known)


def test_heads_of_changing_shape_leave_the_outline_alone() -> None:
    found = TemplateCache()
    for instance in (b"1.1234", b"1.12", b"1.1234", b"1.12"):
        scan(head(instance), found)
    assert found.template is None


def test_an_element_that_comes_twice_is_never_taken_for_granted() -> None:
    found, twice = (
        TemplateCache(),
        head(b"1.12").replace(element(0x00080030, "TM", b"101500"), element(0x00080018, "UI", b"1.12")),
    )
    for _ in range(3):
        assert scan(twice, found).values[0x00080018] == b"1.12"
    assert found.template is None
    with pytest.raises(DataSetUnreadable, match="twice"):
        scan(twice.replace(b"1.12", b"1.13", 1), found)


def test_outlines_are_bounded() -> None:
    found = TemplateCache()
    long = element(0x00080005, "CS", b"") * 300
    for _ in range(3):
        scan(long + head(b"1.12"), found)
    assert found.template is None


def test_each_kind_has_a_memory_of_its_own() -> None:
    assert cache_for("CT1", "1.2", EXPLICIT, False) is cache_for("CT1", "1.2", EXPLICIT, False)
    assert cache_for("CT1", "1.2", EXPLICIT, False) is not cache_for("CT1", "1.2", EXPLICIT, True)


def test_what_follows_the_padding_of_a_long_value_is_never_taken_for_granted() -> None:
    found = TemplateCache()
    long = head(b"1.12".ljust(84, b"\0"))
    for _ in range(3):
        assert scan(long, found).values[0x00080018].rstrip(b"\0") == b"1.12"
    assert found.template is None
    with pytest.raises(DataSetUnreadable, match="padding"):
        scan(
            long.replace(b"\0\0" + element(0x00080030, "TM", b"101500"), b"13" + element(0x00080030, "TM", b"101500")),
            found,
        )


def test_what_is_optional_is_read_without_a_scan() -> None:
    wanted, known = wanted_elements((STUDY_DATE, MODALITY)), TemplateCache()
    rest = head(b"1.1")
    for number, date in enumerate((b"20240101", b"20240102", b"20240103", b"not date")):
        data = element(STUDY_DATE, "DA", date) + element(MODALITY, "CS", b"CT") + rest
        scanner = HeadScanner(EXPLICIT, wanted=wanted, templates=known)
        scanner.feed(data)
        scanner.finish()
        assert scanner.values[STUDY_DATE] == date
        assert scanner.values[MODALITY] == b"CT"
        assert (known.template is not None) == (number >= 1)
