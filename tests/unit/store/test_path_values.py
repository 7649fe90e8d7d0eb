"""Values for paths: what is safe stays as it is, everything else is encoded or absent."""

import re
import time

import pytest

from dicomd.store.path_values import (
    ae_title_value,
    may_be_a_date,
    may_be_a_peer,
    may_be_a_title,
    may_be_of_title,
    modality_value,
    path_values,
    peer_value,
    received_date_value,
    study_date_value,
)
from dicomd.tags import MODALITY, STUDY_DATE
from tests.unit.store.instances import identity


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("CT1", "CT1"),
        ("ct1", "ct1"),
        ("CT_SCANNER-2.old", "CT_SCANNER-2.old"),
        ("CT 1", "CT%201"),
        ("A/B", "A%2FB"),
        ("..", "%2E."),
        (".", "%2E"),
        (".dicomd", "%2Edicomd"),
        ("../../../../tmp/", "%2E.%2F..%2F..%2F..%2Ftmp%2F"),
        ("-rf", "%2Drf"),
        ("--", "%2D-"),
        ("100%", "100%25"),
        ("A%2FB", "A%252FB"),
        ("~", "%7E"),
        ("a\\b", "a%5Cb"),
        ("a\nb", "a%0Ab"),
        ("a\0b", "a%00b"),
        ("\xe9\xff", "%E9%FF"),
        ("none", "%6Eone"),
        ("None", "None"),
        ("unfiled", "%75nfiled"),
        ("/" * 16, "%2F" * 16),
        ("", "none"),
    ],
)
def test_an_ae_title_becomes_safe_and_can_be_recognized(title: str, value: str) -> None:
    assert ae_title_value(title) == value
    assert may_be_a_title(value)
    assert may_be_of_title(value, "".join("?" if c in "\\\n\0\xe9\xff" else c for c in title))
    assert not may_be_of_title(value, "OTHER")
    assert not may_be_of_title("OTHER", title)


@pytest.mark.parametrize("value", ["", "A/B", "..", ".x", "-x", "%", "%2f", "%41", "a b", "A" * 17, "unfiled", "\xe9"])
def test_what_no_ae_title_becomes_is_recognized(value: str) -> None:
    assert not may_be_a_title(value)
    assert not may_be_of_title(value, value)


def test_a_peer_has_its_name_or_is_unknown() -> None:
    assert peer_value("") == "unknown"
    assert peer_value("ct_1.north-2") == "ct_1.north-2"
    assert [peer_value(name) for name in ("none", "unfiled")] == ["%6Eone", "%75nfiled"]
    assert all(map(may_be_a_peer, ("unknown", "ct_1.north-2", "%6Eone")))
    assert not any(map(may_be_a_peer, ("", "none", ".x", "a/b")))


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (b"CT", "CT"),
        (b"MR ", "MR"),
        (b" US\0", "US"),
        (b"OPTENF", "OPTENF"),
        (b"A_B C", "A%5FB%20C"),
        (b"X" * 16, "X" * 16),
        (b"", "none"),
        (b"  ", "none"),
        (b"ct", "none"),
        (b"CT\\PT", "none"),
        (b"../x", "none"),
        (b"X" * 17, "none"),
        (b"\xe9", "none"),
        (b"CT" + b" " * 78, "none"),  # the scan kept no more of it
    ],
)
def test_a_modality_is_one_or_none(element: bytes, value: str) -> None:
    assert modality_value(element) == value


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (b"20240229", "20240229"),
        (b"20240229 ", "20240229"),
        (b"2024.02.29", "20240229"),
        (b"2024.02.29\0", "20240229"),
        (b"", "none"),
        (b"20230229", "none"),
        (b"00000000", "none"),
        (b"20241301", "none"),
        (b"2024", "none"),
        (b"2024.0229", "none"),
        (b"2024-02-29", "none"),
        (b"2024W011", "none"),
        (b"20240229\\20240301", "none"),
        (b"20240101-20240229", "none"),
        ("\N{ARABIC-INDIC DIGIT TWO}0240229".encode(), "none"),
        (b"../../..", "none"),
        (b"20240229" + b" " * 72, "none"),
    ],
)
def test_a_study_date_is_one_or_none(element: bytes, value: str) -> None:
    assert study_date_value(element) == value


def test_the_date_of_reception_is_that_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("UTC-14", "UTC+12"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 11, 29, 23, 59, 59, 6, 333, 0)))
        assert received_date_value() == "20261129"
        monkeypatch.undo()
        time.tzset()
    assert re.fullmatch(r"20\d{6}", received_date_value())
    assert may_be_a_date(received_date_value())
    assert not any(map(may_be_a_date, ("", "none", "20261301", "2026-11-29", "2026.11.29")))


def test_the_values_of_an_instance() -> None:
    who = identity(calling="CT/1", called="")._replace(peer="ct1")
    found = {MODALITY: b"CT", STUDY_DATE: b"20240229"}
    assert path_values(who, found, "20261129") == ("none", "CT%2F1", "ct1", "CT", "20240229", "20261129")
    assert path_values(identity(), {}, "") == ("DICOMD", "CT1", "unknown", "none", "none", "")
