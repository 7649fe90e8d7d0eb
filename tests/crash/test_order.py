"""Checks, in traces of real workers, that data, name and folders are durable before the response is sent.

Each 0x0000 that a worker sent is judged by the calls that had ended before the sending call began.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID

from tests.crash.conftest import Figures
from tests.crash.order import TRACED, Replay
from tests.crash.strace import attached, parse
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import Daemon
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, new_uid
from tests.support.raw_peer import RawPeer, store_message, window

pytestmark = [pytest.mark.root, pytest.mark.system]


def study_of(count: int, *, study: str = "", size: int = 30_000) -> list[Instance]:
    """`count` instances of a study, in two series."""
    study, made = study or new_uid()[:60], []
    for number in range(count):
        ds = data_set(new_uid(), size=size)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(study), UID(f"{study}.{number % 2}")
        made.append(Instance(CT_IMAGE_STORAGE, str(ds.SOPInstanceUID), EXPLICIT_LITTLE, encode(ds)))
    return made


def unreadable(uid: str, size: int = 40_000) -> Instance:
    """An instance whose Data Set can't be read."""
    return Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, b"\xff" * size)


def other_bytes(sent: Instance) -> Instance:
    """The same SOP Instance UID with different pixels."""
    return Instance(sent.sop_class_uid, sent.sop_instance_uid, sent.transfer_syntax, sent.data_set[:-4] + b"DIFF")


def send_all(daemon: Daemon, batches: Sequence[list[Instance]], operations: int = 1) -> None:
    """Send each batch over its own Association, all at the same time, with so many operations outstanding on each."""
    failures: list[BaseException] = []
    together = threading.Barrier(len(batches))

    def send(batch: list[Instance]) -> None:
        try:
            with RawPeer(daemon.address) as peer:
                peer.associate(user_information=[window(operations)] if operations > 1 else [])
                together.wait(30)
                answered: dict[int, str] = {}
                for number, each in enumerate(batch):
                    peer.send(store_message(each, message_id=number))
                    if number + 1 - len(answered) == operations:
                        read_one(peer, answered)
                while len(answered) < len(batch):
                    read_one(peer, answered)
                assert answered == {number: each.sop_instance_uid for number, each in enumerate(batch)}
                peer.release()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=send, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def read_one(peer: RawPeer, answered: dict[int, str]) -> None:
    response = peer.read_message()
    assert response.status == 0
    answered[response.answered_id] = response.sop_instance_uid


def trace(
    daemon: Daemon, folder: Path, batches: Sequence[list[Instance]], operations: int = 1
) -> tuple[int, list[str]]:
    """Send while the workers are traced; return the number of successes, and a message for each that came too early."""
    out = folder / "trace"
    workers = list(daemon.worker_pids())
    with attached(workers, out, "-f", "-s", "400", "-e", f"trace={','.join(TRACED)}"):
        send_all(daemon, batches, operations)
    sent = {(each.sop_instance_uid, each.data_set) for batch in batches for each in batch}
    stored = [file for file in daemon.stored() if (file.sop_instance_uid, file.data_set) in sent]
    paths = {file.sop_instance_uid: str(file.path) for file in stored}
    assert len(paths) == len(stored)
    replay, successes, wrong = Replay(str(daemon.root)), 0, []
    for moment, response in replay.run(parse(out.read_text())):
        assert response.status == 0
        successes += 1
        path = paths[response.sop_instance_uid]
        since, waited = judged(replay, path)
        if since > moment:
            wrong.append(f"{path}: when success was sent, it still waited for {waited}")
        elif not replay.data_durable_before_published(path):
            wrong.append(f"{path}: published before its data was durable")
    return successes, wrong


def judged(replay: Replay, path: str) -> tuple[float, str]:
    try:
        return replay.durable_since(path)
    except KeyError:
        return math.inf, "being published"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("associations", "operations"), [(1, 1), (8, 1), (1, 8), (3, 8)])
def test_each_success_is_sent_after_everything_it_promises(
    start_daemon: StartDaemon, tmp_path: Path, associations: int, operations: int, figures: Figures
) -> None:
    daemon = start_daemon(dicomd={"workers": 2})
    shared = new_uid()[:60]  # a study sent over all of them at once, so that one makes the folders for all
    batches = [study_of(10) + study_of(4, study=shared) + study_of(2, size=300_000) for _ in range(associations)]
    successes, wrong = trace(daemon, tmp_path, batches, operations)
    figures(successes=successes)
    assert wrong == []
    assert successes == 16 * associations


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("operations", [1, 8])
@pytest.mark.parametrize("policy", ["keep-both", "replace"])
def test_duplicates_that_arrive_at_once_are_durable_when_success_is_sent(
    start_daemon: StartDaemon, tmp_path: Path, policy: str, operations: int, figures: Figures
) -> None:
    """Four Associations send the same instances to two workers: one that finds a file must ensure its durability."""
    daemon = start_daemon(dicomd={"workers": 2}, storage={"duplicates": policy})
    batch = study_of(12)
    successes, wrong = trace(daemon, tmp_path, [batch, batch, batch, batch], operations)
    figures(successes=successes)
    assert wrong == []
    assert successes == 48
    assert len(daemon.stored()) == 12


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("policy", ["keep-both", "replace"])
def test_another_data_set_of_the_same_instance_is_durable_when_success_is_sent(
    start_daemon: StartDaemon, tmp_path: Path, policy: str
) -> None:
    daemon = start_daemon(dicomd={"workers": 2}, storage={"duplicates": policy})
    batch = study_of(6)
    send_all(daemon, [batch])
    successes, wrong = trace(daemon, tmp_path, [[other_bytes(each) for each in batch]])
    assert wrong == []
    assert successes == 6
    kept = sorted(file.data_set[-4:] == b"DIFF" for file in daemon.stored())
    assert kept == ([True] * 6 if policy == "replace" else [False] * 6 + [True] * 6)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_unfiled_instance_is_durable_when_success_is_sent(
    start_daemon: StartDaemon, tmp_path: Path, figures: Figures
) -> None:
    """Four Associations at once, each with an instance of its own and one that all send, which makes the folder."""
    daemon = start_daemon(dicomd={"workers": 2}, storage={"unfiled": "keep"})
    same = unreadable(new_uid())
    successes, wrong = trace(daemon, tmp_path, [[same, unreadable(new_uid())] for _ in range(4)])
    figures(successes=successes)
    assert wrong == []
    assert successes == 8
    assert {file.path.parent.name for file in daemon.stored()} == {"unfiled"}
    assert len(daemon.stored()) == 5


# Daemons that break the promise, and the messages with which the trace reveals them.
_FOLDERS = "import os, stat\nfsync = os.fsync\nfolder = lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode)\n"
LIARS: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing is synced": ({"durability": "none"}, "", "the entry"),
    "data is not synced": ({}, "import os\nos.fdatasync = lambda fd: None\n", "the data"),
    "folders are not synced": (
        {},
        f"{_FOLDERS}os.fsync = lambda fd: None if folder(fd) else fsync(fd)\n",
        "the entry",
    ),
    "folders above are not synced": (
        {},
        f"{_FOLDERS}os.fsync = lambda fd: None if folder(fd) and '.dcm' not in str(os.listdir(fd)) else fsync(fd)\n",
        "the entry",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("liar", "operations"), [*((liar, 1) for liar in LIARS), ("data is not synced", 8)])
def test_a_worker_that_breaks_the_promise_is_found_out(tmp_path: Path, liar: str, operations: int) -> None:
    """Shows that the tests above can fail."""
    overrides, sabotage, waited = LIARS[liar]
    daemon = Daemon(tmp_path, {"dicomd": {"workers": 1}, "storage": overrides})
    (tmp_path / "sitecustomize.py").write_text(sabotage)
    daemon.environment["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parents[2]}"
    try:
        daemon.start()
        successes, wrong = trace(daemon, tmp_path, [study_of(3)], operations)
        daemon.stop()
    finally:
        if daemon.running:
            daemon.kill()
    assert successes == 3
    assert len(wrong) >= 1
    assert all(waited in line for line in wrong)
