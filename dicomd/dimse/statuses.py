"""The DIMSE status codes that dicomd answers with (PS3.7 Annex C; PS3.4 Table B.2-1 for C-STORE)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Values of Status (0000,0900)."""

    SUCCESS = 0x0000
    INVALID_SOP_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    UNRECOGNIZED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212
    OUT_OF_SPACE = 0xA700
    STORE_UNAVAILABLE = 0xA701
    BACKEND_UNAVAILABLE = 0xA702
    OUT_OF_RESOURCES = 0xA703
    OBJECT_TOO_LARGE = 0xA710
    DATA_SET_MISMATCH = 0xA900
    DATA_SET_UNREADABLE = 0xC000
    LAYOUT_ELEMENT_INVALID = 0xC001
    DUPLICATE_REJECTED = 0xC010
    INTERNAL_ERROR = 0xC211

    def __str__(self) -> str:
        """Four upper-case hex digits, as in metrics and logs."""
        return f"{self:04X}"
