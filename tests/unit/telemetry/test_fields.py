"""The fields of a log line: only known keys, and values that can't break out of the line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomd.telemetry.fields import FIELDS, MAX_TEXT, MAX_VALUE, journal_field, safe_field, safe_text, safe_value

PACKAGE = Path(__file__).parents[3] / "dicomd"
METHODS = {"debug", "info", "warning", "error", "critical", "exception", "bind", "log"}
STRUCTLOG_KEYS = {"exc_info"}


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("CT1", "CT1"),
        ("Köln 東京", "Köln 東京"),
        ("a\nlevel=critical", r"a\nlevel=critical"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        ("\udcff", r"\udcff"),
    ],
)
def test_whatever_a_terminal_might_obey_is_escaped(text: str, safe: str) -> None:
    assert safe_text(text) == safe


@given(st.text())
def test_any_text_becomes_printable_and_bounded(text: str) -> None:
    safe = safe_text(text)
    assert safe.isprintable()
    assert len(safe) <= MAX_TEXT
    safe.encode()


def test_long_text_is_cut_and_says_so() -> None:
    assert safe_text("x" * 5000) == "x" * (MAX_TEXT - 1) + "…"
    assert len(safe_text("\x00" * MAX_TEXT)) == MAX_TEXT


def test_values_of_other_types_become_safe_too() -> None:
    assert safe_value(b"CT\xff\n") == r"CT\xff\n"
    assert safe_value({"a\n": ["b\x1b", ("c", 1, 2.5, None, True)]}) == {r"a\n": [r"b\x1b", ["c", 1, 2.5, None, True]]}
    assert safe_value(2**64) == str(2**64)
    assert safe_value(Path("/x\n")) == r"/x\n"
    cyclic: list[object] = [1]
    cyclic.append(cyclic)
    safe_value(cyclic)


def test_what_is_left_out_of_a_list_or_an_object_is_counted() -> None:
    assert safe_value(list(range(256))) == list(range(256))
    assert safe_value(list(range(1000))) == [*range(255), "… and 745 more"]
    assert list(safe_value({f"k{n}": n for n in range(1000)}).items())[254:] == [("k254", 254), ("…", "and 745 more")]
    few = safe_value(["x" * 500] * 20)
    assert few[-1] == f"… and {20 - (len(few) - 1)} more"
    assert 3000 < len(orjson.dumps(few)) <= MAX_VALUE


def test_a_uid_is_cut_at_64_characters() -> None:
    assert safe_field("dicom_sop_class_uid", "1." + "2" * 62) == "1." + "2" * 62
    assert safe_field("dicom_sop_class_uid", "1." + "2" * 63) == "1." + "2" * 61 + "…"
    assert safe_field("dicom_sop_class_uid", "\x80" * 64) == r"\x80" * 15 + "\\x8…"


def test_journal_fields_are_upper_case_in_our_name_space() -> None:
    assert journal_field("dicom_calling_aet") == "DICOM_CALLING_AET"
    assert journal_field("dicomd_worker") == "DICOMD_WORKER"
    assert journal_field("outcome") == "DICOMD_OUTCOME"
    assert len({journal_field(key) for key in FIELDS}) == len(FIELDS)
    assert all(len(journal_field(key)) <= 64 for key in FIELDS)  # journald drops longer names


def log_calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Yield (place, call, method) for every logging call in the package, on a name that ends in "log"."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                owner = ast.unparse(node.func.value)
                if owner.rpartition(".")[2].strip("_").lower() in {"log", "logger"} or "get_logger()" in owner:
                    yield f"{path.relative_to(PACKAGE.parent)}:{node.lineno}", node, node.func.attr


def test_the_source_logs_no_key_outside_the_list() -> None:
    unknown = [
        f"{where}: {keyword.arg or '**' + ast.unparse(keyword.value)}"
        for where, call, _ in log_calls()
        for keyword in call.keywords
        if keyword.arg is not None and keyword.arg not in FIELDS | STRUCTLOG_KEYS
    ]
    assert unknown == []


def logged_keys() -> set[str]:
    """The keys that some line may carry: arguments of logging calls, and keys of objects made where lines are made."""
    keys = {keyword.arg for _, call, _ in log_calls() for keyword in call.keywords if keyword.arg is not None}
    files = {PACKAGE.parent / where.partition(":")[0] for where, _, _ in log_calls()} | {
        *PACKAGE.glob("telemetry/*.py")
    }
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            written = node.keys if isinstance(node, ast.Dict) else []
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                written = [node.slice]
            keys |= {key.value for key in written if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return keys


def test_every_key_of_the_list_is_logged_somewhere() -> None:
    assert sorted(FIELDS - logged_keys()) == []


def test_the_source_builds_no_event_out_of_data() -> None:
    built = [
        f"{where}: {ast.unparse(call.args[0])}"
        for where, call, method in log_calls()
        if method not in {"bind", "log"}
        and call.args
        and isinstance(call.args[0], ast.JoinedStr | ast.BinOp | ast.Call)
    ]
    assert built == []
