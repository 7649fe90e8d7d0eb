"""The service as an administrator has it: the package in a real Debian, systemd, and senders that never stop."""

from __future__ import annotations

import pytest

from tests.support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

CT_SMALL = "/usr/lib/dicomd/lib/python3*/site-packages/pydicom/data/test_files/CT_small.dcm"


def test_a_real_sender_stores(service: Service) -> None:
    done = service.machine.run("sh", "-ec", f"storescu 127.0.0.1 11112 {CT_SMALL}", check=False)
    assert done.returncode == 0, done.stderr
    (stored,) = service.stored()
    assert stored.text(0x00020016) == "STORESCU"
    (entry,) = service.wait_journal("DICOM_CALLING_AET=STORESCU", "MESSAGE_ID=b2f4d30132e747a78993ad35c073b0fd")
    assert entry["DICOM_STATUS"] == "0000"
    assert entry["DICOM_SOP_INSTANCE_UID"] == stored.sop_instance_uid
