"""Tags, 0xGGGGEEEE, of the elements of a Data Set that dicomd reads or names (PS3.6)."""

from __future__ import annotations

from typing import Final

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
STUDY_DATE: Final = 0x00080020
MODALITY: Final = 0x00080060
PATIENT_ID: Final = 0x00100020
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E
PIXEL_DATA: Final = 0x7FE00010
