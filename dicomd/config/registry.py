"""The UIDs that the standard registers (PS3.6 Annex A): pydicom's dictionary, and what it doesn't have yet.

pydicom is imported on first use, so that commands that need no configuration start fast.
"""

from functools import cache
from typing import Final, NamedTuple

SOP_CLASS: Final = "SOP Class"
TRANSFER_SYNTAX: Final = "Transfer Syntax"


class Entry(NamedTuple):
    """A line of PS3.6 Table A-1: the name without "(Retired)", and the UID Type as the table spells it."""

    name: str
    keyword: str
    type: str
    retired: bool = False


# In PS3.6 2026d, but not in the dictionary of pydicom 3.0.2.
_NEWER: Final = {
    "1.2.840.10008.1.2.4.110": Entry("JPEG XL Lossless", "JPEGXLLossless", TRANSFER_SYNTAX),
    "1.2.840.10008.1.2.4.111": Entry("JPEG XL JPEG Recompression", "JPEGXLJPEGRecompression", TRANSFER_SYNTAX),
    "1.2.840.10008.1.2.4.112": Entry("JPEG XL", "JPEGXL", TRANSFER_SYNTAX),
    "1.2.840.10008.1.2.8.1": Entry(
        "Deflated Image Frame Compression", "DeflatedImageFrameCompression", TRANSFER_SYNTAX
    ),
    "1.2.840.10008.5.1.4.1.1.2.3": Entry("CT Image Storage - For Processing", "CTImageStorageForProcessing", SOP_CLASS),
    "1.2.840.10008.5.1.4.1.1.2.4": Entry(
        "Enhanced CT Image Storage - For Processing", "EnhancedCTImageStorageForProcessing", SOP_CLASS
    ),
    "1.2.840.10008.5.1.4.1.1.2.5": Entry(
        "Legacy Converted Enhanced CT Image Storage - For Processing",
        "LegacyConvertedEnhancedCTImageStorageForProcessing",
        SOP_CLASS,
    ),
    "1.2.840.10008.5.1.4.1.1.9.100.1": Entry(
        "Waveform Presentation State Storage", "WaveformPresentationStateStorage", SOP_CLASS
    ),
    "1.2.840.10008.5.1.4.1.1.9.100.2": Entry(
        "Waveform Acquisition Presentation State Storage", "WaveformAcquisitionPresentationStateStorage", SOP_CLASS
    ),
    "1.2.840.10008.5.1.4.1.1.66.7": Entry("Label Map Segmentation Storage", "LabelMapSegmentationStorage", SOP_CLASS),
    "1.2.840.10008.5.1.4.1.1.66.8": Entry("Height Map Segmentation Storage", "HeightMapSegmentationStorage", SOP_CLASS),
    "1.2.840.10008.5.1.4.1.1.601.3": Entry("Thermography Image Storage", "ThermographyImageStorage", SOP_CLASS),
    "1.2.840.10008.5.1.4.1.1.601.4": Entry(
        "Thermography Multi-frame Image Storage", "ThermographyMultiFrameImageStorage", SOP_CLASS
    ),
    "1.2.840.10008.5.1.4.1.1.601.5": Entry("Ultrasound Waveform Storage", "UltrasoundWaveformStorage", SOP_CLASS),
}


@cache
def registered() -> dict[str, Entry]:
    """Return every registered UID with its entry, SOP Classes and Transfer Syntaxes among them."""
    from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]  # imported there

    return _NEWER | {
        uid: Entry(name, keyword, kind, bool(retired))
        for uid, (name, kind, _, retired, keyword) in UID_dictionary.items()
    }


def of_type(kind: str) -> dict[str, Entry]:
    """Return the entries of one UID Type by UID, in the order of the UIDs' components."""
    found = [(uid, entry) for uid, entry in registered().items() if entry.type == kind]
    return dict(sorted(found, key=lambda item: [int(component) for component in item[0].split(".")]))
