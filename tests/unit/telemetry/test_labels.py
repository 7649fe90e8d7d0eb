"""Label values come from the standard and the configuration, never from the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomd.telemetry import labels


@pytest.mark.parametrize(
    ("source", "reason", "expected"),
    [
        (1, 7, ("1", "7")),
        (1, 4, ("1", "other")),  # reserved in PS3.8 Table 9-21
        (3, 2, ("3", "2")),
        (9, 1, ("other", "other")),
    ],
)
def test_reject_codes(source: int, reason: int, expected: tuple[str, str]) -> None:
    assert labels.reject_codes(source, reason) == expected


@pytest.mark.parametrize(
    ("source", "reason", "expected"),
    [
        (0, 0, ("0", "0")),
        (0, 99, ("0", "0")),  # not significant (PS3.8 §9.3.8)
        (2, 6, ("2", "6")),
        (2, 3, ("2", "other")),  # reserved
        (1, 0, ("other", "other")),
    ],
)
def test_abort_codes(source: int, reason: int, expected: tuple[str, str]) -> None:
    assert labels.abort_codes(source, reason) == expected


@given(st.integers(0, 255), st.integers(0, 255))
def test_a_peer_s_abort_can_make_only_these_series(source: int, reason: int) -> None:
    listed = {labels.abort_codes(s, r) for s, reasons in labels.ABORT_REASONS.items() for r in reasons}
    assert labels.abort_codes(source, reason) in listed | {("2", "other"), ("other", "other")}


def test_a_status_is_four_upper_case_hex_digits() -> None:
    assert labels.response_labels("C-STORE-RSP", 0xA700) == ("C-STORE-RSP", "A700")
    assert labels.response_labels("C-ECHO-RSP", 0) == ("C-ECHO-RSP", "0000")
    assert labels.response_labels("C-FIND-RSP", 0x211) == ("other", "0211")


def test_other_values_are_from_a_closed_set() -> None:
    assert labels.errno_label("ENOSPC") == "ENOSPC"
    assert labels.errno_label("") == "none"
    assert labels.errno_label("EWHATEVER") == "other"
    assert labels.module_label("dicomd.store.writer") == "store"
    assert labels.module_label("net") == "net"
    assert labels.module_label("somebody.elses") == "other"
