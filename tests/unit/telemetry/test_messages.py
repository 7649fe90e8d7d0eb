"""The catalog explains every message, using only fields that entries can have."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dicomd.telemetry.fields import FIELDS, journal_field
from dicomd.telemetry.messages import Message

CATALOG = Path(__file__).parents[3] / "packaging" / "dicomd.catalog"


def test_ids_are_distinct_and_what_sd_id128_takes() -> None:
    ids = [message.message_id for message in Message]
    assert len(set(ids)) == len(ids) == 15
    assert all(re.fullmatch(r"[0-9a-f]{32}", message_id) for message_id in ids)


def test_a_message_is_its_event_text() -> None:
    assert Message.STARTED == "started"
    assert f"{Message.INSTANCE_STORED}" == "instance stored"
    assert Message.STARTED.message_id == "551ff59224984777a2d6d988cbd83a4b"


def test_every_message_and_nothing_else_is_in_the_catalog() -> None:
    entries = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(message.message_id for message in Message)


def test_every_catalog_entry_has_a_subject_and_a_text() -> None:
    for entry in re.split(r"^-- [0-9a-f]{32}\n", CATALOG.read_text(), flags=re.MULTILINE)[1:]:
        head, _, text = entry.partition("\n\n")
        assert head.startswith("Subject: ")
        assert "\nDefined-By: dicomd\n" in head
        assert len(text.strip()) > 30


def test_the_catalog_names_only_fields_that_a_line_may_carry() -> None:
    named = set(re.findall(r"@([A-Z_]+)@", CATALOG.read_text().partition("\n-- ")[2]))
    assert named <= {journal_field(key) for key in FIELDS}
    assert "DICOM_CALLING_AET" in named


def test_journalctl_compiles_the_catalog(tmp_path: Path) -> None:
    if shutil.which("journalctl") is None:
        pytest.skip("journalctl is not installed (Debian package systemd)")
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    journalctl = ["journalctl", f"--root={tmp_path}"]
    update = subprocess.run([*journalctl, "--update-catalog"], capture_output=True, text=True, check=False)
    assert (update.returncode, update.stderr) == (0, "")
    listed = subprocess.run([*journalctl, "--list-catalog"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == {message.message_id for message in Message}
