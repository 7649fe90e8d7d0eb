"""What the line of a refused instance says about what to do."""

import pytest

from dicomd.lacks import Lack
from dicomd.net.store_advice import advice
from dicomd.services.storage import StoreOperation
from dicomd.statuses import Status
from dicomd.store.errors import (
    DataSetMismatch,
    DataSetUnreadable,
    ObjectTooLarge,
    OutOfSpace,
    StoreError,
    StoreUnavailable,
    from_oserror,
)
from dicomd.store.space import Space, shortage
from dicomd.store.types import InstanceIdentity

IDENTITY = InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.840.10008.1.2", "CT1", "DICOMD")


def told(error: StoreError | None, status: Status | None = None) -> str:
    operation = StoreOperation(IDENTITY)
    operation.error = error
    if status is None:
        assert error is not None
        status = error.status
    return advice(status, operation, "peers.ct1")


def test_a_peer_that_may_not_store_is_named_with_its_key() -> None:
    assert told(None, Status.NOT_AUTHORIZED) == 'the peer may not store: add "store" to peers.ct1.allow'


@pytest.mark.parametrize(
    ("element", "found", "expected"),
    [
        (0x00080018, "9.9", "the SOP Instance UID in the Data Set is 9.9, in the command 1.2.3.4"),
        (0x00080016, "9.8", "the SOP Class UID in the Data Set is 9.8, in the command 1.2.840.10008.5.1.4.1.1.2"),
        (0x00080018, "", "the SOP Instance UID in the Data Set is no valid UID, in the command 1.2.3.4"),
    ],
)
def test_both_uids_that_differ_are_named(element: int, found: str, expected: str) -> None:
    said = told(DataSetMismatch("UID in the Data Set differs from the command's", element=element, found=found))
    assert said.startswith(expected)
    assert "vendor" in said


def test_an_instance_that_would_be_kept_if_there_were_room_says_so() -> None:
    assert "unfiled" in told(DataSetUnreadable("Data Set is empty", operation="unfiled"))
    assert told(DataSetUnreadable("Data Set is empty")) == ""


def used_up(avail_bytes: int, files_avail: int) -> OutOfSpace:
    lack = shortage(Space(avail_bytes, 1 << 40, files_avail, 1 << 20), 1 << 30)
    assert lack is not None
    return OutOfSpace(lack, operation="open")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (used_up(0, 1 << 20), "storage.reserve_free"),
        (used_up(1 << 40, 0), "df -i"),
        (from_oserror(OSError(28, "No space left on device"), "write"), "df -h"),
        (from_oserror(OSError(122, "Disk quota exceeded"), "write"), "quota"),
        (OutOfSpace(Lack.QUOTA, operation="open"), "quota"),
        (from_oserror(OSError(27, "File too large"), "write"), "size"),
    ],
)
def test_what_is_used_up_is_told_apart(error: StoreError, expected: str) -> None:
    assert expected in told(error)


def test_others() -> None:
    assert "storage.max_object_size" in told(ObjectTooLarge("Object is larger than this receiver accepts"))
    assert "one file system" in told(from_oserror(OSError(18, "Invalid cross-device link"), "link", "/srv/1"))
    assert told(StoreUnavailable("Storage has an I/O error", errno="EIO")) == ""
