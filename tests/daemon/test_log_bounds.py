"""A stranger can neither flood the log nor inject anything into it, in any format.

Invariant: a line has at most 16 KiB, a field of the journal at most 4,000 bytes (CONTRACT 7), and neither contains
anything that a terminal would obey.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dicomd.telemetry.budget import HOST_BYTES, PEER_BYTES, WINDOW
from dicomd.telemetry.fields import FIELDS, MAX_FIELD, MAX_LINE
from dicomd.telemetry.render import LEVELS, ConsoleRenderer
from tests.daemon.conftest import StartDaemon
from tests.support import senders, wire
from tests.support.daemon import Daemon
from tests.support.encoding import item, pdu
from tests.support.journal import Journal, launcher, tell
from tests.support.objects import CT_IMAGE_STORAGE, instance
from tests.support.pydicom_files import sample
from tests.support.raw_peer import APPLICATION_CONTEXT, DEADLINE, RawPeer
from tests.support.waiting import wait_until

STRANGERS_KEPT_OUT = {"peers": [{"name": "ct1", "ae_titles": ["CT1"]}]}
MAX_REQUEST = 256 * 1024
REFUSED = (1, 1, 3)


def request(contexts: list[bytes], *, calling: bytes = b"STRANGER", version_name: bytes = b"V1") -> bytes:
    """An A-ASSOCIATE-RQ with these Presentation Contexts, each as its sub-items."""
    items = item(0x10, APPLICATION_CONTEXT.encode())
    for number, sub_items in enumerate(contexts):
        items += item(0x20, bytes((2 * number + 1 & 255, 0, 0, 0)) + sub_items)
    items += item(0x50, item(0x51, bytes(4)) + item(0x52, b"1.2.3") + item(0x55, version_name))
    return pdu(1, struct.pack(">HH", 1, 0) + b"DICOMD".ljust(16) + calling.ljust(16) + bytes(32) + items)


def filled(byte: bytes, *, contexts: int = 128, syntaxes: int = 16) -> bytes:
    """Presentation Contexts for a request of the maximum length, with UIDs that consist only of this byte."""
    length = min(65_000, (MAX_REQUEST - 2000) // contexts) // (syntaxes + 1) - 5
    uid = byte * length
    return request([item(0x30, uid) + item(0x40, uid) * syntaxes] * contexts)


def ordinary(abstract_syntax: str = CT_IMAGE_STORAGE, *, contexts: int = 128) -> list[bytes]:
    syntaxes = [f"1.2.840.10008.1.2.4.{number}".encode() for number in range(50, 60)]
    return [item(0x30, abstract_syntax.encode()) + b"".join(item(0x40, uid) for uid in syntaxes)] * contexts


REJECTED: dict[str, bytes] = {
    "unprintable": filled(b"\x80"),
    "quotes": filled(b'"'),
    "backslashes": filled(b"\\"),
    "newlines": filled(b"\n"),
    "escapes": filled(b"\x1b"),
    "digits": filled(b"1"),
    "one context": filled(b"\x00", contexts=1, syntaxes=3),
    "one syntax": filled(b"\xff", syntaxes=1),
    "many syntaxes": filled(b"\x01", contexts=1, syntaxes=4000),
    "ordinary": request(ordinary()),
    "unknown": request(ordinary("1.2.3.4")),
    "titles": request(ordinary(contexts=1), calling=b"\x1b[2J\nlevel=x\xe2\x80\xae"),
    "version name": request(ordinary(contexts=1), version_name=b"\x1b" * 60000),
}
"""Requests of a peer that is not configured."""


def provoke(daemon: Daemon) -> int:
    """Send the requests, which are all rejected, and return their number."""
    for data in REJECTED.values():
        assert len(data) <= MAX_REQUEST + 6
        with RawPeer(daemon.address) as peer:
            peer.send(data)
            assert peer.read_rejection() == REFUSED
    return len(REJECTED)


def provoke_admitted(daemon: Daemon) -> None:
    """Send everything by which an admitted peer can cause long lines."""
    refused = [(f"1.2.{number}" + ".1" * 25, ["1.2.3." + "4" * 50] * 100) for number in range(120)]
    for proposals in (refused, [*refused, (CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.1"])]):
        with RawPeer(daemon.address, calling="CT1") as peer:
            peer.associate(proposals)
            peer.release()
    with RawPeer(daemon.address, calling="CT1") as peer:
        peer.associate()
        uid = b"1." + b'"\\' * 20000 + b"\x1b" * 10000
        assert peer.store(instance(), changes={wire.AFFECTED_SOP_INSTANCE_UID: uid}).status != 0
        peer.release()
    with RawPeer(daemon.address) as peer:
        peer.send(b"GET /" + b"\x1b" * 1000)
        peer.read_abort()


def check_console(record: dict[str, Any]) -> None:
    """On a terminal the line is bounded too, and contains no escape sequences except colours."""
    line = {key: value for key, value in record.items() if key in FIELDS} | {"event": record["event"]}
    render = ConsoleRenderer({}, dict.fromkeys(LEVELS, lambda amount: None), colors=True)
    written = render(None, record.get("level", "warning"), line)
    assert len(written) <= MAX_LINE
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_each_line_is_bounded(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**STRANGERS_KEPT_OUT)
    count = provoke(daemon)
    provoke_admitted(daemon)
    wait_until(lambda: len(daemon.logged("association rejected")), equals=count)
    daemon.stop()
    for line in daemon.output:
        assert len(line.encode()) < MAX_LINE
        assert line.isprintable()
    for record in daemon.records:
        for key, value in record.items():
            assert len(json.dumps(value, ensure_ascii=False).encode()) <= MAX_FIELD, key
        check_console(record)
    for record in daemon.logged("association rejected"):
        named = [context for context in record["contexts"] if isinstance(context, dict)]
        assert len(named) <= 16
        assert all(len(context["abstract_syntax"]) <= 64 for context in named)
        assert len(named) == record["contexts_proposed"] or isinstance(record["contexts"][-1], str)


@pytest.mark.root
def test_each_entry_of_the_journal_is_bounded(start_daemon: StartDaemon, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    daemon = Daemon(tmp_path, {**STRANGERS_KEPT_OUT, "log": {"format": "journald", "level": "info"}})
    daemon.launcher = launcher(folder)
    sizes: list[int] = []

    def told(entry: dict[str, str]) -> None:
        sizes.append(sum(len(f"{key}={value}\n".encode()) for key, value in entry.items()))
        tell(daemon)(entry)

    with Journal(folder, told) as journal:
        with daemon:
            count = provoke(daemon)
            provoke_admitted(daemon)
            wait_until(lambda: len(daemon.logged("association rejected")), equals=count)
        assert max(sizes) <= MAX_LINE
        for entry in journal.entries:
            for key, value in entry.items():
                assert len(f"{key}={value}".encode()) <= MAX_FIELD, key
                assert value.isprintable()


def test_an_ordinary_mistake_is_a_short_line(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(dicomd={"ae_titles": ["DICOMD"]})
    file = tmp_path / "ct.dcm"
    shutil.copy(sample("CT_small.dcm"), file)
    senders.pynetdicom("storescu", *daemon.address, file, "-aec", "WRONG")
    record = daemon.wait_logged("association rejected")
    (line,) = (line for line in daemon.output if "association rejected" in line)
    assert len(line) < 4000
    assert record["contexts"] == [f"{record['contexts_proposed']} contexts, all acceptable"]
    assert record["contexts_proposed"] > 100


def be_rejected(daemon: Daemon, host: str, times: int) -> None:
    """Get rejected from this address as fast as possible, with a request that causes a long line."""
    data = request(ordinary("1.2.3.4", contexts=20))
    for _ in range(times):
        with socket.create_connection(daemon.address, timeout=DEADLINE, source_address=(host, 0)) as peer:
            peer.sendall(data)
            assert peer.recv(10, socket.MSG_WAITALL)[7:] == bytes(REFUSED)


def bytes_of(daemon: Daemon, address: str) -> int:
    """The bytes of log caused by this address, except the lines that report suppressed ones."""
    return sum(
        len(line.encode()) + 1
        for line, record in list(zip(daemon.output, daemon.records, strict=False))  # more may be added meanwhile
        if record.get("dicom_peer_address") == address and record["event"] != "log lines suppressed"
    )


@pytest.mark.slow
def test_a_flood_is_bounded_and_counted(start_daemon: StartDaemon) -> None:
    """Over all workers and generations: each host has its limit, all strangers share one, and peers are unaffected."""
    daemon = start_daemon(**STRANGERS_KEPT_OUT, dicomd={"workers": 2}, log={"level": "info"})
    hosts = {f"127.0.0.{number}": 500 for number in range(2, 10)}
    began = time.monotonic()
    for _ in range(2):  # the second time also to new workers, alongside the old ones
        with RawPeer(daemon.address, calling="CT1") as peer, ThreadPoolExecutor(len(hosts)) as crowd:
            peer.associate()
            floods = [crowd.submit(be_rejected, daemon, host, times) for host, times in hosts.items()]
            for _ in range(20):
                assert peer.store(instance()).status == 0
            for flood in floods:
                flood.result()
            assert daemon.reload()["event"] == "config applied"
            peer.release()
    total = 2 * sum(hosts.values())
    wait_until(
        lambda: sum(line["count"] for line in daemon.logged("log lines suppressed")) + rejected(daemon), equals=total
    )
    windows = (time.monotonic() - began) // WINDOW + 1
    if windows * PEER_BYTES < total * 2500:  # bytes per line; otherwise the machine was too slow for a flood
        assert daemon.logged("log lines suppressed") != []
    for host in hosts:
        assert 0 < bytes_of(daemon, host) <= windows * HOST_BYTES
    assert sum(bytes_of(daemon, host) for host in hosts) <= windows * PEER_BYTES
    workers, generations = 2, 3
    most = len(hosts) * (windows * WINDOW + workers * generations)  # one per second, and one at the end of each process
    assert len(daemon.logged("log lines suppressed")) <= most
    assert len(daemon.logged("instance stored")) == 40
    wait_until(lambda: len(daemon.logged("association ended", dicom_calling_aet="CT1")), equals=2)
    assert daemon.metric("dicomd_log_records_suppressed_total") == total - rejected(daemon)
    assert daemon.metric("dicomd_associations_rejected_total", source="1", reason="3") == total


def rejected(daemon: Daemon) -> int:
    return len(daemon.logged("association rejected"))


@pytest.mark.slow
def test_new_instances_are_always_told_and_the_same_again_is_bounded(start_daemon: StartDaemon) -> None:
    """An identical duplicate succeeds without using space, so its line counts towards the sender's limit."""
    daemon = start_daemon(dicomd={"workers": 1}, storage={"durability": "none"}, log={"level": "info"})
    same, again = instance(), 2500
    began = time.monotonic()
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(same).status == 0
        for _ in range(again):
            assert peer.store(same).status == 0
        for _ in range(20):
            assert peer.store(instance()).status == 0
        peer.release()

    def told() -> int:
        return len(daemon.logged("instance stored", duplicate="identical"))

    wait_until(
        lambda: sum(line["count"] for line in daemon.logged("log lines suppressed")) + told(),
        until=lambda count: count >= again,
    )

    def new() -> int:
        return len([line for line in daemon.logged("instance stored") if line.get("duplicate") != "identical"])

    wait_until(new, equals=21)
    size = sum(len(line) + 1 for line in daemon.output if '"duplicate":"identical"' in line)
    assert 0 < size <= ((time.monotonic() - began) // WINDOW + 1) * HOST_BYTES
    assert all(
        set(line["suppressed"]) <= {"instance stored", "association ended"}
        for line in daemon.logged("log lines suppressed")
    )
    assert daemon.metric("dicomd_store_duplicates_total", result="identical") == again
