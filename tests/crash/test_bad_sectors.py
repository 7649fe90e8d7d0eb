"""One stored file or folder fails, as if over a bad sector, while its sender keeps sending the instance.

Other senders must not be affected: each of their instances has to be stored. strace makes calls fail; one test uses a
real ext4 with damaged inodes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import UID

from tests.crash import power
from tests.crash.conftest import Figures
from tests.crash.senders import digest
from tests.crash.strace import attached
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import Daemon
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, new_uid
from tests.support.raw_peer import RawPeer
from tests.support.waiting import wait_until

OTHERS = 12
"""Number of instances that another sender sends meanwhile, each over a new Association."""
AGAIN = 5
"""How often at least the instance is sent again meanwhile."""
LOG_LINES = 1
"""Log lines that one worker may write about one file."""

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120)]


def instance_of(study: str, series: str = "1") -> Instance:
    ds = data_set(new_uid(), size=600)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(study), UID(f"{study}.{series}")
    return Instance(CT_IMAGE_STORAGE, str(ds.SOPInstanceUID), EXPLICIT_LITTLE, encode(ds))


@contextlib.contextmanager
def failing(daemon: Daemon, path: Path, call: str, cause: str, out: Path) -> Iterator[None]:
    """Make a call fail in the worker whenever it concerns this file or folder."""
    (worker,) = daemon.worker_pids()
    with attached([worker], out, "-f", "-P", str(path), "-e", f"trace={call}", "-e", f"inject={call}:error={cause}"):
        yield
    assert "(INJECTED)" in out.read_text()


def sent_beside(daemon: Daemon, repeated: Instance) -> Counter[str]:
    """Keep sending an instance, and send others at the same time, which must be stored; return the one's outcomes."""
    answers: Counter[str] = Counter()
    over = threading.Event()

    def repeat() -> None:
        with RawPeer(daemon.address) as peer:
            peer.associate()
            while not over.is_set():
                answers[f"{peer.store(repeated).status:04X}"] += 1
            peer.release()

    sender = threading.Thread(target=repeat)
    sender.start()
    try:
        for number in range(OTHERS):
            wait_until(
                lambda least=AGAIN * (number + 1) // OTHERS: answers.total() >= least or not sender.is_alive(),
                what="the instance is not sent again",
            )
            with RawPeer(daemon.address) as peer:
                peer.associate()  # must not be rejected
                assert peer.store(instance_of(new_uid()[:60])).status == 0
                assert daemon.ready()
                peer.release()
    finally:
        over.set()
        sender.join(30)
    assert answers.total() >= AGAIN
    return answers


@pytest.mark.parametrize(
    ("call", "cause"),
    [("pread64", "EIO"), ("pread64", "EUCLEAN"), ("pread64", "ESTALE"), ("flock", "EBADF"), ("flock", "ENOLCK")],
)
def test_a_good_copy_of_an_unreadable_file_is_kept_beside_it(
    start_daemon: StartDaemon, tmp_path: Path, call: str, cause: str, figures: Figures
) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    instance = instance_of(new_uid()[:60])
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance).status == 0
        (stored,) = daemon.stored()
        with failing(daemon, stored.path, call, cause, tmp_path / "trace"):
            answers = sent_beside(daemon, instance)
        peer.release()
    assert set(answers) == {"0000"}
    copies = [file for file in daemon.stored() if file.sop_instance_uid == instance.sop_instance_uid]
    assert len(copies) == 2
    assert {digest(file.data_set) for file in copies} == {digest(instance.data_set)}
    lines = daemon.logged("stored file cannot be read", path=str(stored.path), errno=cause)
    assert len(lines) == LOG_LINES
    operation = {"pread64": "read", "flock": "lock"}[call]
    assert daemon.metric("dicomd_store_errors_total", operation=operation, errno=cause) == answers["0000"]
    figures(sent_again=answers.total(), log_lines=len(lines))


@pytest.mark.parametrize(("duplicates", "status"), [("replace", "0000"), ("reject", "C010")])
def test_an_unreadable_file_under_the_other_policies(
    start_daemon: StartDaemon, tmp_path: Path, duplicates: str, status: str
) -> None:
    daemon = start_daemon(dicomd={"workers": 1}, storage={"duplicates": duplicates})
    instance = instance_of(new_uid()[:60])
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance).status == 0
        (stored,) = daemon.stored()
        with failing(daemon, stored.path, "pread64", "EIO", tmp_path / "trace"):
            answers = sent_beside(daemon, instance)
        peer.release()
    assert set(answers) == {status}
    (file,) = (file for file in daemon.stored() if file.sop_instance_uid == instance.sop_instance_uid)
    assert digest(file.data_set) == digest(instance.data_set)


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        ("openat", "EIO"),
        ("openat", "EUCLEAN"),
        ("mkdirat", "EIO"),
        ("mkdirat", "EMLINK"),
        ("linkat", "EXDEV"),
    ],
)
def test_a_folder_that_fails_refuses_its_own_instances(
    start_daemon: StartDaemon, tmp_path: Path, call: str, cause: str
) -> None:
    """Opening, making and linking entries in that folder fail."""
    daemon = start_daemon(dicomd={"workers": 1})
    study = new_uid()[:60]
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance_of(study)).status == 0
        refused = instance_of(study, "1" if call == "linkat" else "2")
        folder = daemon.root / study / f"{study}.1" if call == "linkat" else daemon.root / study
        with failing(daemon, folder, call, cause, tmp_path / "trace"):
            answers = sent_beside(daemon, refused)
        assert set(answers) == {"A701"}
        lines = daemon.logged("store failed", errno=cause)
        assert {Path(line["path"]).name for line in lines} == {f"{refused.sop_instance_uid}.dcm"}
        assert peer.store(refused).status == 0  # after the folder has been repaired
        peer.release()


@pytest.mark.parametrize(("duplicates", "status"), [("keep-both", "0000"), ("replace", "A701"), ("reject", "C010")])
def test_damaged_inodes(start_daemon: StartDaemon, tmp_path: Path, duplicates: str, status: str) -> None:
    """Damages a file's inode, so that not even its name can be looked up, and a folder's."""
    power.needs("mkfs.ext4", "debugfs")
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    power.command("mkfs.ext4", "-q", image)
    study = new_uid()[:60]
    in_bad_file, in_bad_folder = instance_of(study, "1"), instance_of(study, "2")
    settings = {"root": str(folder / "store"), "duplicates": duplicates}
    with power.attached(image) as device, power.mounted(device, on=folder):
        daemon = start_daemon(dicomd={"workers": 1}, storage=settings)
        with RawPeer(daemon.address) as peer:
            peer.associate()
            assert [peer.store(each).status for each in (in_bad_file, in_bad_folder)] == [0, 0]
            peer.release()
        daemon.stop()
    bad_file = f"{study}/{study}.1/{in_bad_file.sop_instance_uid}.dcm"
    for path in (bad_file, f"{study}/{study}.2"):
        power.command("debugfs", "-w", "-R", f"clri store/{path}", image)
    with power.attached(image) as device, power.mounted("-o", "errors=continue", device, on=folder):
        daemon.start()
        assert set(sent_beside(daemon, in_bad_file)) == {status}
        assert set(sent_beside(daemon, in_bad_folder)) == {"A701"}
        if duplicates != "replace":
            assert len(daemon.logged("stored file cannot be read", path=str(folder / "store" / bad_file))) == LOG_LINES
        done = subprocess.run(
            [sys.executable, "-m", "dicomd", "verify-store", "--config", str(daemon.config_path)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        daemon.stop()
    problems = [line.partition(": ")[0] for line in done.stdout.splitlines() if "can't be read" in line]
    assert sorted(problems) == sorted([bad_file, f"{study}/{study}.2"])
    stored = 2 * OTHERS + (duplicates == "keep-both")
    assert f"{stored} instances OK" in done.stdout
    assert done.returncode == 1
