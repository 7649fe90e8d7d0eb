"""The keys a log line may carry, and how a value is made safe for a line.

Two rules. A key that isn't listed here is never written: patient data cannot leak through a key nobody reviewed
(the line says so in ``unknown_keys``, and a test reads every call in the source). And no value can break out of its
line or flood it: whatever a terminal or a parser might obey is escaped, and length is bounded, since AE titles, UIDs
and names of implementations are a stranger's bytes.
"""

from collections.abc import Mapping
from typing import Any, Final

MAX_TEXT: Final = 512  # characters of one value; a UID has 64, an AE title 16
MAX_ITEMS: Final = 256  # of one list: 128 Presentation Contexts are the standard's most (PS3.8 §9.3.2.2)
MAX_TRACEBACK: Final = 16384  # characters; bounded where it is made

# CONTRACT 7: the journal's fields are these in upper case.
_CONTRACT: Final = frozenset({
    "dicom_association_id", "dicom_peer", "dicom_peer_address", "dicom_calling_aet", "dicom_called_aet",
    "dicom_sop_class_uid", "dicom_sop_instance_uid", "dicom_transfer_syntax_uid", "dicom_status", "dicom_bytes",
    "dicom_duration_usec", "dicomd_worker", "dicomd_generation",
})  # fmt: skip

# No key for a patient's name or ID, or a study's attributes. `path` is a place in the store that fails, which nobody
# could mend unnamed. A layout is built of nothing but UIDs; `tests/unit/store/test_layout.py` makes sure of that.
FIELDS: Final = _CONTRACT | frozenset({
    # of an Association
    "listener", "outcome", "result", "source", "reason", "direction", "instances", "failures", "bytes_per_second",
    "contexts", "contexts_accepted", "contexts_proposed", "advice", "max_pdu", "pdu_type", "state", "context_id",
    "command", "implementation_class_uid", "implementation_version_name", "application_context", "protocol_version",
    "message_number", "associations", "connections", "limit", "destination", "lost",
    # of TLS and of who may do what
    "tls_version", "tls_cipher", "certificate_names", "rule", "balancer",
    # of the store
    "operation", "errno", "path", "error", "error_comment", "duplicate", "sync_usec", "element", "root", "durability",
    "layout", "avail_bytes", "size_bytes", "reserve_bytes", "files_avail", "accepting", "removed",
    # of the process
    "version", "python", "pid", "listeners", "http", "config_path", "config_error_count", "config_errors", "peers",
    "restart_pending", "signal", "exit_status", "workers", "worker_pid", "drain_seconds", "uptime_seconds", "days",
    "ready",
    # of the program itself
    "module", "exception", "exception_type", "thread", "logger", "detail", "count", "unknown_keys",
})  # fmt: skip


def journal_field(key: str) -> str:
    """The journal's field of a key: upper case, and in dicomd's own name space where the key doesn't name one."""
    return key.upper() if key.startswith("dicom") else f"DICOMD_{key.upper()}"


def safe_text(text: str, limit: int = MAX_TEXT) -> str:
    r"""The text with everything unprintable escaped (``\x1b``, ``\n``, ``\u202e``) and at most ``limit`` characters.

    Unprintable is what Python says: controls, separators but the space, formatting and bidirectional marks, surrogates.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def safe_value(value: Any) -> Any:
    """A value of any type as JSON-able scalars, lists and objects of safe text; bounded in length and items."""
    if isinstance(value, str):
        return safe_text(str(value))
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)  # JSON's readers know no more
    if isinstance(value, bytes | bytearray | memoryview):
        return safe_text(bytes(value[:MAX_TEXT]).decode("ascii", "backslashreplace"))
    if isinstance(value, Mapping):
        return {safe_text(str(k)): safe_value(v) for k, v in _bounded(value.items())}
    if isinstance(value, list | tuple | set | frozenset):
        return [safe_value(item) for item in _bounded(value)]
    if isinstance(value, BaseException):
        return type(value).__qualname__  # its message may quote data: see `dicomd.telemetry.tracebacks`
    return safe_text(str(value))


def _bounded(items: Any) -> list[Any]:
    return [item for item, _ in zip(items, range(MAX_ITEMS), strict=False)]
