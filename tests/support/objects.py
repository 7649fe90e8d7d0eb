"""Makes instances for tests to send.

Invariant: each is complete and different from all others, so that tests can share a store and find their own in it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.support.part10 import split_part10

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

PATIENT_NAME, PATIENT_ID = "Doppelgaenger^Xaverine", "PID-4711-GEHEIM"
"""Values that must never appear anywhere but in the stored instance."""

_OURS = "1.2.826.0.1.3680043.10.1494.7"
_random = random.Random(1494)


@dataclass(frozen=True)
class Instance:
    """A SOP Instance as it is sent: `data_set` is encoded in `transfer_syntax`."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    data_set: bytes


def new_uid() -> str:
    """A UID that this process has not used before; no store is shared between processes."""
    return f"{_OURS}.{_random.getrandbits(100)}"


def data_set(sop_instance_uid: str, *, size: int = 512, sop_class_uid: str = CT_IMAGE_STORAGE) -> Dataset:
    """A small but complete Data Set with `size` bytes of pixel data that differ between instances."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = UID(sop_class_uid), UID(sop_instance_uid)
    ds.StudyDate, ds.Modality = "20240229", "CT"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = PATIENT_NAME, PATIENT_ID, "19700101"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(f"{sop_instance_uid}.1"[-64:]), UID(f"{sop_instance_uid}.2"[-64:])
    ds.InstanceNumber, ds.Rows, ds.Columns = 1, 16, 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.add_new(0x7FE00010, "OW", _random.randbytes(size + size % 2))
    return ds


def instance(
    *, size: int = 512, sop_class_uid: str = CT_IMAGE_STORAGE, transfer_syntax: str = EXPLICIT_LITTLE
) -> Instance:
    """A new instance in one of the uncompressed transfer syntaxes."""
    sop_instance_uid = new_uid()
    encoded = encode(data_set(sop_instance_uid, size=size, sop_class_uid=sop_class_uid), transfer_syntax)
    return Instance(sop_class_uid, sop_instance_uid, transfer_syntax, encoded)


def encode(ds: Dataset, transfer_syntax: str = EXPLICIT_LITTLE) -> bytes:
    """The Data Set's bytes in an uncompressed transfer syntax."""
    uid = UID(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = uid.is_little_endian, uid.is_implicit_VR
    write_dataset(buffer, ds)
    return buffer.getvalue()


def write_file(path: Path, *, size: int = 512, sop_class_uid: str = CT_IMAGE_STORAGE) -> Instance:
    """A new instance as a Part 10 file, for senders that read files."""
    sop_instance_uid = new_uid()
    ds = data_set(sop_instance_uid, size=size, sop_class_uid=sop_class_uid)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    dcmwrite(path, ds, enforce_file_format=True)
    return Instance(sop_class_uid, sop_instance_uid, EXPLICIT_LITTLE, split_part10(path.read_bytes())[2])
