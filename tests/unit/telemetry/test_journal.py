"""Journal entries as received by a socket in place of journald, and their loss when it doesn't read them."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dicomd.telemetry import journal as module
from dicomd.telemetry.journal import JournalWriter, encode
from dicomd.telemetry.logs import configure_logging, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from tests.support.journal import Journal, decode
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("metric_files")

STORED: dict[str, Any] = {
    "dicom_association_id": "a1",
    "dicom_calling_aet": "CT1",
    "dicom_sop_instance_uid": "1.2.3",
    "dicom_status": "0000",
    "dicom_bytes": 524288,
    "dicom_duration_usec": 3123,
}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    with Journal(tmp_path) as found:
        monkeypatch.setattr(module, "SOCKET", found.path)
        yield found


def journal_stream(stream: io.TextIOBase) -> str:
    status = os.fstat(stream.fileno())
    return f"{status.st_dev}:{status.st_ino}"


def test_stderr_connected_to_the_journal_means_the_journal(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        monkeypatch.setenv("JOURNAL_STREAM", journal_stream(stream))
        assert configure_logging("auto", "info", stream, constants={"dicomd_worker": 1}) == "journald"
    get_logger().info(Message.INSTANCE_STORED, listeners={"dicom": "127.0.0.1:11112"}, **STORED)
    wait_until(lambda: journal.entries)
    assert journal.entries == [
        {
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "dicomd",
            "MESSAGE_ID": Message.INSTANCE_STORED.message_id,
            "DICOMD_WORKER": "1",
            "DICOMD_LISTENERS": '{"dicom":"127.0.0.1:11112"}',
            "DICOM_ASSOCIATION_ID": "a1",
            "DICOM_CALLING_AET": "CT1",
            "DICOM_SOP_INSTANCE_UID": "1.2.3",
            "DICOM_STATUS": "0000",
            "DICOM_BYTES": "524288",
            "DICOM_DURATION_USEC": "3123",
            "MESSAGE": "instance stored listeners=dicom=127.0.0.1:11112 association_id=a1 "
            "calling_aet=CT1 sop_instance_uid=1.2.3 status=0000 bytes=524288 duration_usec=3123",
        }
    ]


def test_a_journal_stream_that_isn_t_stderr_means_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (tmp_path / "stderr").open("w") as stream:
        assert configure_logging("auto", "info", stream) == "json"


def test_without_a_journal_there_are_lines_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOCKET", tmp_path / "none")
    with (tmp_path / "stderr").open("w") as stream:
        monkeypatch.setenv("JOURNAL_STREAM", journal_stream(stream))
        assert configure_logging("auto", "info", stream) == "json"
        assert configure_logging("journald", "info", stream) == "json"
    assert "no journal found" in (tmp_path / "stderr").read_text()


def test_a_traceback_keeps_its_lines(journal: Journal) -> None:
    configure_logging("journald", "info")
    try:
        {}[1]
    except KeyError:
        get_logger().exception(Message.INTERNAL_ERROR, module="dicomd.store")
    wait_until(lambda: journal.entries)
    (entry,) = journal.entries
    assert entry["DICOMD_EXCEPTION"].startswith("Traceback (most recent call last):\n")
    assert entry["DICOMD_EXCEPTION"].endswith("\nKeyError")
    assert entry["DICOMD_MODULE"] == "dicomd.store"
    assert "\n" not in entry["MESSAGE"]


@pytest.mark.parametrize("fields", [["A=b"], ["A=", "B=c=d"], ["A=x\ny", "B=z"], ["A=\n", "B=é\udc80"]])
def test_what_is_encoded_is_what_is_read(fields: list[str]) -> None:
    expected = dict(field.encode(errors="backslashreplace").decode().split("=", 1) for field in fields)
    assert decode(encode(fields)) == expected


def test_a_journal_that_stands_still_costs_entries_and_no_time(journal: Journal) -> None:
    """The queue of a datagram socket is short: a sender that waited for room in it would wait for ever."""
    metrics = Metrics(CollectorRegistry(), version="1")
    configure_logging("journald", "info", metrics=metrics)
    journal.stand_still()
    over = threading.Event()

    def log() -> None:
        for _ in range(3000):
            get_logger().info("x")
        over.set()

    logging = threading.Thread(target=log, daemon=True)
    logging.start()
    assert over.wait(30), "logging blocks on the journal"
    logging.join()
    lost = metrics.registry.get_sample_value("dicomd_log_records_lost_total")
    assert lost
    journal.go_on()
    wait_until(lambda: len(journal.entries), until=lambda count: count >= 3000 - lost)
    get_logger().info("y")
    wait_until(lambda: journal.entries[-1]["MESSAGE"], equals="y")
    assert journal.entries[-2]["MESSAGE"] == f"log lines lost count={lost:.0f}"
    assert journal.entries[-2]["PRIORITY"] == "4"


def test_a_journal_that_went_away_costs_the_entry_only(journal: Journal) -> None:
    metrics = Metrics(CollectorRegistry(), version="1")
    configure_logging("journald", "info", metrics=metrics)
    away = journal.path.rename(journal.path.with_name("away"))
    get_logger().info("x")
    assert metrics.registry.get_sample_value("dicomd_log_records_lost_total") == 1
    away.rename(journal.path)
    get_logger().info("y")
    wait_until(lambda: len(journal.entries), equals=2)
    assert [entry["MESSAGE"] for entry in journal.entries] == ["log lines lost count=1", "y"]


def test_a_restarted_journal_is_found(journal: Journal) -> None:
    """It listens on a new socket of the same name; entries sent to the old one would be lost."""
    writer = JournalWriter(notice=lambda _: ("MESSAGE=lost",), on_lost=lambda: None)
    writer.info("MESSAGE=a")
    wait_until(lambda: journal.entries)
    journal.path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
        another.settimeout(20)
        another.bind(str(journal.path))
        writer.info("MESSAGE=b")
        assert another.recv(100) == b"MESSAGE=b\n"
    writer.close()
    writer.info("MESSAGE=c")
