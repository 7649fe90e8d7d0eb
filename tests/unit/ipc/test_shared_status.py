"""The status in shared memory: bounded, read in whole records, with nothing left of processes that have ended."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from dicomd.ipc.association_table import ROWS, AssociationTable
from dicomd.ipc.refusals import KEPT, Refusals
from dicomd.ipc.seqlock import SeqlockRecord
from dicomd.ipc.shared_state import SharedState
from dicomd.ipc.shared_status import SupervisorStatus
from dicomd.net.status_sink import Refused
from dicomd.telemetry.fields import MAX_TEXT
from tests.support.waiting import wait_until
from tests.support.worker_slots import worker_slot

ALL = range(2)
WORST = {
    "peer": "p" * 64,
    "peer_address": "2001:0db8:0000:0000:0000:ff00:0042:8329",
    "calling_aet": "\x1b" * 16,
    "called_aet": "\xff" * 16,
    "association_id": "0" * 12,
    "listener": "l" * 64,
}


@contextlib.contextmanager
def unlocked() -> Iterator[None]:
    yield


@pytest.fixture
def shared_state() -> SharedState:
    return SharedState()


class Record(SeqlockRecord):
    """A record for values of up to 4 KiB."""

    _fields_ = (("_data", ctypes.c_ubyte * 4096),)


@pytest.fixture
def record() -> Record:
    return Record.from_buffer(mmap.mmap(-1, ctypes.sizeof(Record)))


def test_a_record_is_what_was_written_last(record: Record) -> None:
    assert record.read() is None
    record.write({"a": 1})
    record.write([1, 2])
    assert record.read() == [1, 2]
    record.clear()
    assert record.read() is None


def test_a_value_that_is_too_long_changes_nothing(record: Record) -> None:
    record.write("short")
    with pytest.raises(ValueError, match="too many"):
        record.write("x" * 4096)
    assert record.read() == "short"


def test_a_writer_that_died_in_the_middle_leaves_nothing_until_the_next(record: Record) -> None:
    record.write("before")
    record._version |= 1  # as during a write  # noqa: SLF001 - as a writer leaves it that dies
    assert record.read() is None
    record.write("after")
    assert record.read() == "after"


def test_the_end_of_the_versions_is_an_end_like_any_other(record: Record) -> None:
    record._version = 2**32 - 2  # noqa: SLF001 - as a writer leaves it that dies
    for value in ("last", "first", "second"):
        record.write(value)
        assert record.read() == value


@pytest.mark.parametrize("seen_late", ["_version", "_length", "_checksum", "_data"])
def test_writes_that_are_seen_in_another_order_are_no_value(record: Record, seen_late: str) -> None:
    """As on aarch64, where a reader may see the version of the new value beside a part of the old one."""
    record.write("old")
    old = getattr(record, seen_late) if seen_late != "_data" else bytes(record._data)  # noqa: SLF001 - as a reader may see it
    record.write("newest")
    if seen_late == "_data":
        record._data[:] = old  # noqa: SLF001 - as a reader may see it
    else:
        setattr(record, seen_late, old)
    assert record.read() is None


def test_a_reader_never_sees_two_values_in_one(record: Record) -> None:
    """The writer is another process, so that it writes while a reader is in the middle of copying."""
    values = [[digit] * (500 * (digit + 1)) for digit in range(3)]
    writer = os.fork()
    if writer == 0:
        while True:
            for value in values:
                record.write(value)
    try:
        wait_until(record.read)
        seen = [record.read() for _ in range(3000)]
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert all(value is None or value in values for value in seen)


def test_an_association_is_listed_while_it_is_open_with_what_it_brought(shared_state: SharedState) -> None:
    display = worker_slot(shared_state).status
    row = display.open({"calling_aet": "CT1"})
    row.answered(stored=True, size=100)
    row.answered(stored=True, size=50)
    row.answered(stored=False, size=7)
    (shown,) = shared_state.status.associations.open_associations(0)
    assert shown == {"calling_aet": "CT1", "age_seconds": 0, "instances": 2, "failures": 1, "bytes": 157}
    row.close()
    row.close()
    display.count(associations=1)
    display.count(unfiled=1)
    assert shared_state.status.associations.open_associations(0) == []
    assert shared_state.status.associations.counted(ALL) == {
        "associations": 1, "rejected": 0, "instances": 2, "failures": 1, "unfiled": 1, "bytes": 157
    }  # fmt: skip


def test_a_row_that_is_used_again_starts_at_zero(shared_state: SharedState) -> None:
    display = worker_slot(shared_state).status
    first = display.open({})
    first.answered(stored=True, size=100)
    first.close()
    display.open({})
    assert shared_state.status.associations.open_associations(0)[0]["instances"] == 0


def test_the_longest_names_fit(shared_state: SharedState) -> None:
    worker_slot(shared_state).status.open(dict(WORST))
    (shown,) = shared_state.status.associations.open_associations(0)
    assert shown["calling_aet"] == r"\x1b" * 16
    assert shown["peer"] == "p" * 64


def test_more_than_there_are_rows_are_counted_and_not_listed(shared_state: SharedState) -> None:
    display = worker_slot(shared_state).status
    rows = [display.open({}) for _ in range(ROWS + 3)]
    for row in rows:
        row.answered(stored=True, size=1)
    assert len(shared_state.status.associations.open_associations(0)) == ROWS
    assert shared_state.status.associations.counted(ALL)["instances"] == ROWS + 3
    for row in rows:
        row.close()
    assert shared_state.status.associations.open_associations(0) == []


def test_a_dead_worker_s_associations_are_gone_and_its_counts_stay(shared_state: SharedState) -> None:
    display = worker_slot(shared_state).status
    display.open({}).answered(stored=True, size=10)
    shared_state.vacate(0)
    assert shared_state.status.associations.open_associations(0) == []
    assert shared_state.status.associations.counted(ALL)["instances"] == 1
    worker_slot(shared_state).status.open({}).answered(stored=True, size=10)
    assert shared_state.status.associations.counted(ALL)["instances"] == 2


def test_counts_of_many_threads_add_up(shared_state: SharedState) -> None:
    display = worker_slot(shared_state).status

    def store() -> None:
        row = display.open({})
        for _ in range(500):
            row.answered(stored=True, size=2)
        row.close()
        display.count(associations=1)

    threads = [threading.Thread(target=store) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = shared_state.status.associations.counted(ALL)
    assert (counted["instances"], counted["bytes"], counted["associations"]) == (4000, 8000, 8)


def test_measurements_are_a_worker_s_own() -> None:
    associations = AssociationTable(2)
    associations.rows_of(1).measure(1 << 45, 1 << 46, 7)
    assert associations.measured(1) == {"avail_bytes": 1 << 45, "size_bytes": 1 << 46, "files_avail": 7}
    assert associations.measured(0) == {"avail_bytes": 0, "size_bytes": 0, "files_avail": 0}


def test_the_same_refusal_again_is_one_entry() -> None:
    refusals = Refusals(unlocked)
    for _ in range(3):
        refusals.note({"why": "a", "calling": "CT1"})
    refusals.note({"why": "b", "calling": "CT1", "peer": ""})
    newest = refusals.newest()
    assert [(entry["why"], entry["count"]) for entry in newest] == [("b", 1), ("a", 3)]
    assert newest[1]["first"] <= newest[1]["last"]
    assert "peer" not in newest[0]


def test_only_the_last_refusals_are_kept() -> None:
    refusals = Refusals(unlocked)
    for number in range(KEPT + 5):
        refusals.note({"why": str(number)})
    assert [entry["why"] for entry in refusals.newest()] == [str(n) for n in reversed(range(5, KEPT + 5))]


def refused(number: int, address: str, peer: str = "unknown") -> dict[str, str]:
    return {"why": str(number), "calling": f"A{number}", "address": address, "peer": peer}


def test_one_host_that_makes_up_ae_titles_pushes_nobody_out() -> None:
    refusals = Refusals(unlocked)
    for number in range(3):
        refusals.note(refused(number, "10.0.0.1"))
    for number in range(200):
        refusals.note(refused(number, f"2001:db8::{number:x}"))  # a /64 is one host
    kept = refusals.newest()
    assert [entry["why"] for entry in kept if entry["address"] == "10.0.0.1"] == ["2", "1", "0"]
    assert len(kept) == KEPT
    refusals.note(refused(0, "10.0.0.2"))
    assert [entry["address"] for entry in refusals.newest() if entry["address"].startswith("10.")] == [
        "10.0.0.2",
        *["10.0.0.1"] * 3,
    ]


def test_strangers_leave_half_to_configured_peers() -> None:
    refusals = Refusals(unlocked)
    for number in range(KEPT):
        refusals.note(refused(number, f"10.0.0.{number}", peer=f"ct{number}"))
    for number in range(500):
        refusals.note(refused(number, f"10.1.{number // 250}.{number % 250}"))
    peers = [entry["peer"] for entry in refusals.newest()]
    assert peers.count("unknown") == KEPT // 2
    refusals.note(refused(0, "10.2.0.1", peer="mr1"))
    assert "mr1" in [entry["peer"] for entry in refusals.newest()]


def test_a_refusal_of_any_length_fits(shared_state: SharedState) -> None:
    texts = dict.fromkeys(("address", "peer", "calling", "called", "listener"), "ÿ" * 5000)
    worker_slot(shared_state).status.refused(Refused.INSTANCE, why="\U0001f600" * 5000, advice="\x1b" * 5000, **texts)
    (entry,) = shared_state.status.refusals.newest()
    assert entry["refused"] == "instance"


def test_refusals_of_a_worker_that_died_stay(shared_state: SharedState) -> None:
    worker_slot(shared_state).status.refused(Refused.ASSOCIATION, why="x")
    shared_state.vacate(0)
    assert len(shared_state.status.refusals.newest()) == 1


def supervisor_status(text: str, count: int) -> SupervisorStatus:
    texts = [text] * count
    return {
        "listeners": {f"listener{number}": text for number in range(count)},
        "http": texts,
        "http_hosts": texts,
        "access_open": True,
        "associations_limit": 256,
        "root": text,
        "layout": "{SOPInstanceUID}.dcm",
        "reserve_bytes": 1 << 30,
        "configuration": {
            "path": text,
            "last_reload": {"time": 1.5, "successful": False, "errors": texts},
            "restart_pending": texts,
        },
    }


def test_what_the_supervisor_knows_is_unknown_until_it_has_started(shared_state: SharedState) -> None:
    assert shared_state.status.supervisor() is None
    status = supervisor_status("x", 2)
    shared_state.status.publish(status)
    assert shared_state.status.supervisor() == status


def test_what_the_supervisor_knows_fits_whatever_is_configured(shared_state: SharedState) -> None:
    for text in ("\U0001f600" * 5000, "\x1b" * 5000, '"' * 5000):
        shared_state.status.publish(supervisor_status(text, 100))
        found = shared_state.status.supervisor()
        assert found is not None
        assert len(found["http"]) == len(found["listeners"]) == 64
        assert len(found["root"]) == MAX_TEXT
