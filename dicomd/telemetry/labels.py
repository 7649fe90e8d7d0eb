"""The label values that metrics may have, and how any value is mapped to one of them.

Invariant: no label comes from the wire, so the number of series follows from the configuration. Series that are known
beforehand exist at 0 from the start: a rate over a series that only appears with its first failure misses that failure.
"""

import errno as errno_codes
from pathlib import Path
from typing import Final

from dicomd.aborts import AbortReason, AbortSource
from dicomd.outcomes import Outcome
from dicomd.protocols import Spoken
from dicomd.rejections import RejectReason, RejectSource
from dicomd.statuses import C_ECHO_STATUSES, C_STORE_STATUSES

OTHER: Final = "other"
UNKNOWN_PEER: Final = "unknown"

ASSOCIATION_OUTCOMES: Final[tuple[str, ...]] = tuple(Outcome)
TLS_RESULTS: Final = ("ok", "failed", "timed_out")
SPOKEN: Final[tuple[str, ...]] = tuple(Spoken)
DUPLICATE_RESULTS: Final = ("identical", "kept-both", "replaced", "rejected")
RECOVERY_ACTIONS: Final = ("removed",)
WORKER_STATES: Final = ("starting", "ready", "draining")
WORKER_EXIT_REASONS: Final = ("drained", "failed", "signal", "stuck")
# What a peer's operator would call a failure: an Association that wasn't released, or a store that was refused.
PEER_FAILURE_REASONS: Final = (*(outcome for outcome in Outcome if outcome is not Outcome.RELEASED), "store_failed")
# Keys of the configuration by which a peer is refused, or would be if the mode weren't "audit".
ACCESS_RULES: Final = ("dicomd.ae_titles", "listen.proxy_protocol", "peers", "peers.addresses", "peers.allow")
ACCESS_MODES: Final = ("enforce", "audit")
LIMITS: Final = (
    "associate_rq", "association_idle", "associations", "associations_per_peer", "command_set", "connections", "items",
    "large_requests", "max_object_size", "max_pdu", "minimum_rate", "presentation_contexts", "proxy_header",
    "request_timeout", "send_timeout", "transfer_syntaxes", "uid_length", "unfiled", "user_information",
)  # fmt: skip
"""docs/limits.md gives the value of each, and the reason for it."""
AUDIT_RESULTS: Final = ("spooled", "sent", "lost")
MODULES: Final = tuple(sorted(file.parent.name for file in Path(__file__).parents[1].glob("*/__init__.py")))
"""The rooms of docs/architecture.md: one of them has the defect that an unexpected exception reveals."""

# Source → reasons of an A-ASSOCIATE-RJ
REJECT_REASONS: Final = {
    int(source): tuple(reason.code for reason in RejectReason if reason.source is source) for source in RejectSource
}
# Source → reasons of an A-ABORT; the reason of the service-user "shall not be significant" (PS3.8 Table 9-26)
ABORT_REASONS: Final = {
    int(AbortSource.SERVICE_USER): (int(AbortReason.NOT_SPECIFIED),),
    int(AbortSource.SERVICE_PROVIDER): tuple(map(int, AbortReason)),
}
ABORT_DIRECTIONS: Final = ("sent", "received")

RESPONSE_STATUSES: Final[dict[str, tuple[int, ...]]] = {"C-STORE-RSP": C_STORE_STATUSES, "C-ECHO-RSP": C_ECHO_STATUSES}


def reject_codes(source: int, reason: int) -> tuple[str, str]:
    """The labels ``source`` and ``reason`` of an A-ASSOCIATE-RJ."""
    return _codes(REJECT_REASONS, source, reason)


def abort_codes(source: int, reason: int) -> tuple[str, str]:
    """The labels ``source`` and ``reason`` of an A-ABORT; the reason of a service-user abort is always "0"."""
    return _codes(ABORT_REASONS, source, 0 if source == AbortSource.SERVICE_USER else reason)


def response_labels(command: str, status: int) -> tuple[str, str]:
    """The labels ``command`` and ``status`` (four upper-case hex digits) of a DIMSE response."""
    return (command if command in RESPONSE_STATUSES else OTHER), f"{status & 0xFFFF:04X}"


def errno_label(name: str) -> str:
    """The symbolic errno ("ENOSPC"); "none" for the empty string, a store error that no system call caused."""
    if not name:
        return "none"
    return name if name in _ERRNO_NAMES else OTHER


def module_label(module: str) -> str:
    """The room ("store") of a module's ``__name__`` ("dicomd.store.writer"), or of a room's own name."""
    room = module.removeprefix("dicomd.").partition(".")[0]
    return room if room in MODULES else OTHER


def _codes(table: dict[int, tuple[int, ...]], source: int, reason: int) -> tuple[str, str]:
    reasons = table.get(source)
    if reasons is None:
        return OTHER, OTHER
    return str(source), str(reason) if reason in reasons else OTHER


_ERRNO_NAMES: Final = frozenset(errno_codes.errorcode.values())
