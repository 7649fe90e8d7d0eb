"""The DIMSE statuses that dicomd answers with (PS3.7 Annex C; PS3.4 Table B.2-1 for C-STORE).

Invariant: no other module repeats one of these numbers. A failure of the store has its status in `dicomd.store.errors`,
where each errno has its class; `dicomd.services` answers with it; `dicomd.net.message_report` writes the log line and
counts it. The labels of metrics, the configuration's reference and the Conformance Statement's table are made from this
list.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Status(IntEnum):
    """Values of Status (0000,0900). `meaning` is what the Conformance Statement says about each, in Markdown."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Self:
        """Make the number the member's value, and the meaning an attribute."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    SUCCESS = 0x0000, "The instance is durable; or it was already stored, identical, and is durable."
    INVALID_SOP_INSTANCE = 0x0117, "Affected SOP Instance UID is missing or invalid."
    SOP_CLASS_NOT_SUPPORTED = 0x0122, "SOP Class isn't that of the Presentation Context."
    NOT_AUTHORIZED = 0x0124, "The peer may not store: `allow` in its `[[peers]]` entry lacks `store`."
    UNRECOGNIZED_OPERATION = 0x0211, "Neither C-STORE nor C-ECHO."
    MISTYPED_ARGUMENT = 0x0212, "No Data Set is announced, or Affected SOP Class UID is missing or invalid."
    OUT_OF_SPACE = (
        0xA700,
        "Refused: no space, inodes or quota, or below the reserve, which may be reached in the middle of an instance.",
    )
    STORE_UNAVAILABLE = (
        0xA701,
        "Refused: I/O error, read-only or missing file system, failed sync; or this instance's folder can't be used.",
    )
    BACKEND_UNAVAILABLE = 0xA702, "Refused: a storage backend doesn't answer. *Not sent by this version.*"
    OUT_OF_RESOURCES = 0xA703, "Refused: out of memory or file descriptors."
    OBJECT_TOO_LARGE = 0xA710, "Refused: longer than `storage.max_object_size`."
    DATA_SET_MISMATCH = 0xA900, "SOP Class or Instance UID in the Data Set isn't that of the command."
    DATA_SET_UNREADABLE = (
        0xC000,
        (
            "The Data Set is empty, has no SOP Class or SOP Instance UID, is malformed up to Series Instance UID, has "
            "another byte order than its Transfer Syntax, or holds an element of group 0000, 0002, 0004 or 0006 there."
        ),
    )
    LAYOUT_ELEMENT_INVALID = 0xC001, "A UID that the path needs is missing or invalid."
    DUPLICATE_REJECTED = (
        0xC010,
        "A different Data Set, or a file that can't be read, is stored under this SOP Instance UID.",
    )
    INTERNAL_ERROR = 0xC211, "An unexpected error of the receiver, which its log explains."

    def __str__(self) -> str:
        """Four upper-case hex digits, as in metrics and logs."""
        return f"{self:04X}"


C_STORE_STATUSES = tuple(Status)
C_ECHO_STATUSES = (Status.SUCCESS, Status.SOP_CLASS_NOT_SUPPORTED)
"""PS3.7 §9.1.5.1.4 defines no "not authorized" for C-ECHO."""
