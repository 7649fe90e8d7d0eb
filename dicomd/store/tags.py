"""Tags of the elements that the store reads in a Data Set, 0xGGGGEEEE."""

from __future__ import annotations

from typing import Final

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
PATIENT_ID: Final = 0x00100020
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E
