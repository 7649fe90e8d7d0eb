"""The journal as an administrator reads it: dicomd's own fields, and the explanations from the catalog."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.objects import EXPLICIT_LITTLE, PATIENT_ID, PATIENT_NAME, instance
from tests.support.raw_peer import associate_rq
from tests.support.service import Service, wait_until

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

STARTED, STORED = "551ff59224984777a2d6d988cbd83a4b", "b2f4d30132e747a78993ad35c073b0fd"
ENDED, REJECTED = "29e06ec0c8f743a7835cb5f8f5fb2872", "e70ed4f3ba9d436b8f3aaef4f6f5bafa"


def test_entries_have_the_fields_of_the_contract(service: Service) -> None:
    sent = instance(size=5000)
    with service.peer(calling="CT1") as peer:
        peer.associate(called="ARCHIVE")
        assert peer.store(sent).status == 0
        peer.release()
    (stored,) = service.wait_journal("DICOM_CALLING_AET=CT1", f"MESSAGE_ID={STORED}")
    (ended,) = service.wait_journal("DICOM_CALLING_AET=CT1", f"MESSAGE_ID={ENDED}")
    expected = {
        "DICOM_PEER": "unknown",
        "DICOM_PEER_ADDRESS": "127.0.0.1",
        "DICOM_CALLED_AET": "ARCHIVE",
        "DICOM_SOP_CLASS_UID": sent.sop_class_uid,
        "DICOM_SOP_INSTANCE_UID": sent.sop_instance_uid,
        "DICOM_TRANSFER_SYNTAX_UID": EXPLICIT_LITTLE,
        "DICOM_STATUS": "0000",
        "DICOM_BYTES": str(len(sent.data_set)),
        "DICOMD_GENERATION": "1",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "dicomd",
        "_SYSTEMD_UNIT": "dicomd.service",
        "_TRANSPORT": "journal",
    }
    assert expected.items() <= stored.items()
    assert int(stored["DICOM_DURATION_USEC"]) > 0
    assert stored["DICOMD_WORKER"].isdigit()
    assert ended["DICOM_ASSOCIATION_ID"] == stored["DICOM_ASSOCIATION_ID"]
    assert ended["DICOMD_OUTCOME"] == "released"
    everything = json.dumps(service.journal())
    for secret in (*PATIENT_NAME.split("^"), PATIENT_ID):
        assert secret not in everything


def test_journalctl_explains_a_rejection_and_says_what_to_change(service: Service) -> None:
    service.configure('[dicomd]\nae_titles = ["ARCHIVE"]\n')
    service.systemctl("reload")
    with service.peer() as peer:
        peer.send(associate_rq(called="WRONG", calling="MR1"))
        assert peer.read_rejection() == (1, 1, 7)
    (entry,) = service.wait_journal(f"MESSAGE_ID={REJECTED}")
    assert "CT Image Storage" in entry["DICOMD_CONTEXTS"]
    assert "would be accepted" in entry["MESSAGE"]
    text = service.machine.run("journalctl", "--unit=dicomd", "-x", "--no-pager", f"MESSAGE_ID={REJECTED}").stdout
    assert "Subject: Association rejected" in text
    assert re.search(r"MR1 at 127\.0\.0\.1 called WRONG and was", text)
    assert "the Called AE Title is not in dicomd.ae_titles: add it there" in text
    started = service.machine.run("journalctl", "--unit=dicomd", "-x", "--no-pager", f"MESSAGE_ID={STARTED}").stdout
    assert "Subject: dicomd started" in started
    assert "Instances are stored under /var/lib/dicomd/store" in started


def test_status_needs_no_http_and_no_options(service: Service) -> None:
    with service.peer(calling="CT1") as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        text = service.machine.run("dicomd", "status").stdout
        assert ", accepting instances" in text
        assert re.search(r"^unknown +CT1 +DICOMD +127\.0\.0\.1 ", text, re.MULTILINE)
        found = json.loads(service.machine.run("dicomd", "status", "--json").stdout)
        assert found["associations"]["listed"][0]["instances"] == 1
        peer.release()
    wait_until(lambda: service.status()["associations"]["open"], equals=0)
    assert service.get("/")[1].startswith("<!doctype html>")
