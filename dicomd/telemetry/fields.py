"""The keys a log line may carry, and how a value is made safe for a line.

Invariant: a key that isn't listed here is never written, so patient data can't leak through a key that nobody reviewed
(the line names it in ``unknown_keys``, and a test reads every call in the source). Invariant: no value can break out of
its line or flood it. AE titles, UIDs and implementation names are bytes from a stranger, so whatever a terminal or a
parser might obey is escaped, and the length is bounded in bytes as written, after escaping. A "…" marks what was cut.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

MAX_LINE: Final = 16 * 1024
"""Bytes of a line as written, in any format, including all fields of a journal entry and a terminal's colours."""
MAX_FIELD: Final = 4000
"""Bytes of a journal field, including its name: `journalctl -o json` shows null for one of 4096."""
MAX_VALUE: Final = MAX_FIELD - 65
"""Bytes of a value as JSON: 64 are reserved for the longest name and one for the equals sign."""
MAX_TEXT: Final = 512  # characters of one text, once escaped; an AE title has 16
MAX_UID: Final = 64  # characters (PS3.5 §9.1); a longer one is invalid anyway
MAX_ITEMS: Final = 256  # of one list or object
_MAX_DEPTH: Final = 8  # of lists in lists
_LONGEST_ESCAPE: Final = 6  # bytes of one character in JSON: \u0000
_ROOM_FOR_MORE: Final = 32  # bytes of "… and 123 more"

# CONTRACT 7: the journal's fields are these in upper case.
_CONTRACT: Final = frozenset({
    "dicom_association_id", "dicom_peer", "dicom_peer_address", "dicom_calling_aet", "dicom_called_aet",
    "dicom_sop_class_uid", "dicom_sop_instance_uid", "dicom_transfer_syntax_uid", "dicom_status", "dicom_bytes",
    "dicom_duration_usec", "dicomd_worker", "dicomd_generation",
})  # fmt: skip

# No key for a patient's name or ID, or a study's attributes. `path` is a place in the store that fails, which nobody
# could repair without its name. Nothing in a path names a patient, which `tests/unit/store/test_layout.py` verifies; a
# study's date is there only if the operator's layout has {StudyDate}.
FIELDS: Final = _CONTRACT | frozenset({
    # of an Association
    "listener", "outcome", "result", "source", "reason", "direction", "instances", "failures", "contexts",
    "contexts_accepted", "contexts_proposed", "skipped", "advice", "implementation_version_name", "associations",
    "limit", "destination", "lost",
    # of TLS and of who may do what
    "tls_version", "tls_cipher", "certificate_names", "rule", "balancer", "spoken",
    # of the store
    "operation", "errno", "path", "error", "error_comment", "refusal", "duplicate", "sync_usec", "root", "durability",
    "avail_bytes", "reserve_bytes", "removed",
    # of the process
    "version", "python", "pid", "listeners", "http", "config_path", "config_error_count", "config_errors",
    "restart_pending", "signal", "workers", "worker_pid", "drain_seconds", "uptime_seconds", "days",
    # of the program itself
    "module", "exception", "exception_type", "thread", "logger", "detail", "count", "suppressed", "unknown_keys",
})  # fmt: skip


def journal_field(key: str) -> str:
    """The journal's field for a key: in upper case, and in dicomd's own namespace unless the key names one."""
    return key.upper() if key.startswith("dicom") else f"DICOMD_{key.upper()}"


def safe_text(text: str, limit: int = MAX_TEXT) -> str:
    r"""The text with everything unprintable escaped (``\x1b``, ``\n``, ``\u202e``) and at most ``limit`` characters.

    "Unprintable" is what Python calls so: controls, separators except the space, formatting and bidirectional marks,
    and surrogates.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def all_safe(texts: Collection[str], limit: int) -> bool:
    """Whether ``safe_text`` would leave each of the texts as it is. Cheaper than asking it for each."""
    return "".join(texts).isprintable() and max(map(len, texts), default=0) <= limit


def safe_field(key: str, value: Any) -> Any:
    """The safe value of a key, as `safe_value` makes it; a UID is cut at 64 characters."""
    if isinstance(value, str) and key.endswith("_uid"):
        return safe_text(str(value), MAX_UID)
    return safe_value(value)


def safe_value(value: Any, room: int = MAX_VALUE, depth: int = 0) -> Any:
    """A value of any type as JSON-able scalars, lists and objects of safe text, in at most ``room`` bytes of JSON.

    What is left out of a list or an object is counted in its last item. ``depth`` is how deep the value is nested.
    """
    if isinstance(value, str):
        text = safe_text(str(value))
        return text if _LONGEST_ESCAPE * len(text) + 2 <= room else cut(text, room)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else cut(safe_text(str(value)), room)  # JSON readers support no more
    if isinstance(value, bytes | bytearray | memoryview):
        return cut(safe_text(bytes(value[:MAX_TEXT]).decode("ascii", "backslashreplace")), room)
    if isinstance(value, Mapping):
        pairs = [(safe_text(str(key), MAX_UID), item) for key, item in value.items()]
        kept, more = _kept(pairs, room, depth)
        return dict(kept) | ({"…": f"and {more} more"} if more else {})
    if isinstance(value, list | tuple | set | frozenset):
        kept, more = _kept([("", item) for item in value], room, depth)
        return [item for _, item in kept] + ([f"… and {more} more"] if more else [])
    if isinstance(value, BaseException):
        return type(value).__qualname__  # its message may quote data: see `dicomd.telemetry.tracebacks`
    return cut(safe_text(str(value)), room)


def cut(text: str, room: int) -> str:
    """As much of the text as fits into ``room`` bytes of JSON, with "…" in place of the rest."""
    if _fits(text, room):
        return text
    return text[: _fitting(text[:room], room)] + "…"


def cut_front(text: str, room: int) -> str:
    """As much of the end of the text as fits into ``room`` bytes of JSON, with "…" in place of what precedes it."""
    if _fits(text, room):
        return text
    fitting = _fitting(text[: -room - 1 : -1], room)
    return "…" + text[len(text) - fitting :]


def size_of(value: Any) -> int:
    """Bytes of a safe value as JSON."""
    return len(orjson.dumps(value))


def _fits(text: str, room: int) -> bool:
    return _LONGEST_ESCAPE * len(text) + 2 <= room or size_of(text) <= room


def _fitting(text: str, room: int) -> int:
    """How many characters fit beside the "…" and the quotes."""
    left = room - size_of("…")
    for at, character in enumerate(text):
        left -= size_of(character) - 2
        if left < 0:
            return at
    return len(text)


def _kept(pairs: Collection[tuple[str, Any]], room: int, depth: int) -> tuple[list[tuple[str, Any]], int]:
    """The pairs of key and item that fit, made safe, and how many were left out."""
    kept: list[tuple[str, Any]] = []
    left = room - _ROOM_FOR_MORE
    for key, item in pairs:
        if depth >= _MAX_DEPTH or (len(kept) == MAX_ITEMS - 1 < len(pairs) - 1):
            break
        safe = safe_value(item, left - len(key), depth + 1)
        left -= size_of({key: safe})
        if left < 0:
            break
        kept.append((key, safe))
    return kept, len(pairs) - len(kept)
