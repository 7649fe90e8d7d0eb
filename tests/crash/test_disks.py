"""A disk that fills up, turns read-only or disappears while Associations store on it, and comes back.

The tests mount real file systems of their own. Whatever is refused meanwhile, everything acknowledged is there
afterwards and nothing else is, and the daemon resumes accepting instances by itself.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.power import attached, command, mounted, needs
from tests.crash.senders import Ledger, Senders
from tests.crash.verdict import judge, temporary_files
from tests.daemon.conftest import StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.processes import descriptors
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.waiting import wait_until

TIMEOUT = 120.0
MIB = 1 << 20

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted("-t", "tmpfs", "-o", "size=16m,mode=0755", "dicomd-test", on=folder))
        except subprocess.CalledProcessError:
            pytest.skip("no tmpfs can be mounted here")
        yield folder


def assert_nothing_lost(daemon: Daemon, ledger: Ledger) -> None:
    """Every acknowledged instance is there, and every file is as it was sent."""
    verdict = judge(daemon.root, ledger.sent, ledger.acknowledged)
    assert not verdict.broken, verdict
    assert ledger.total > 0


def assert_takes_none(daemon: Daemon) -> None:
    """Not ready, and a new Association is rejected: transient, by the provider, temporary congestion (PS3.8 §9.3.4).

    Each worker checks the store for itself, so one may still accept an Association after another has rejected one.
    """
    wait_until(lambda: not daemon.ready(), TIMEOUT, what="the daemon stays ready")

    def rejects() -> bool:
        with RawPeer(daemon.address) as late:
            late.send(associate_rq())
            pdu = late.read_pdu(TIMEOUT)
            return pdu.type == wire.A_ASSOCIATE_RJ and tuple(pdu.body[1:4]) == (2, 3, 1)

    wait_until(rejects, TIMEOUT, what="the daemon still accepts Associations")


def assert_takes_one(daemon: Daemon) -> None:
    """Becomes ready again by itself, and stores an instance."""
    wait_until(daemon.ready, TIMEOUT, what="the daemon does not become ready again")
    with RawPeer(daemon.address) as peer:
        peer.associate()
        sent = instance()
        assert peer.store(sent).status == 0
        peer.release()
    assert [file.data_set for file in daemon.stored(sent.sop_instance_uid)] == [sent.data_set]


def assert_restart_sweeps(daemon: Daemon) -> None:
    """The next start removes files that could not be removed while their disk was read-only or gone."""
    daemon.stop()
    daemon.start()
    assert temporary_files(daemon.root) == set()


def test_a_disk_is_filled_but_for_the_reserve(start_daemon: StartDaemon, disk: Path) -> None:
    """The instances themselves fill it, and deleting stored ones makes space again."""
    daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(disk / "store"), "reserve_free": "4MiB"})
    with Senders(lambda: daemon.address, seed=1, count=2, lasting=1, sizes=(3000, 900_000)) as senders:
        wait_until(lambda: senders.ledger.refusals, TIMEOUT, what="no instance is refused")
        assert set(senders.ledger.refusals) == {"A700"}
    assert shutil.disk_usage(disk).free >= 4 * MIB
    assert_takes_none(daemon)
    daemon.wait_no_temporary_files()
    assert_nothing_lost(daemon, senders.ledger)
    daemon.empty()
    assert_takes_one(daemon)


def test_a_disk_is_filled_to_its_last_byte(start_daemon: StartDaemon, disk: Path) -> None:
    """Eight Associations at once fill it; writes are short before they fail."""
    daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(disk / "store")})
    with Senders(lambda: daemon.address, seed=2, lasting=1, sizes=(3000, 100_000, 900_000)) as senders:
        wait_until(
            lambda: len(senders.ledger.refusals),
            TIMEOUT,
            until=lambda count: count > 50,
            what="no instance is refused",
        )
    assert set(senders.ledger.refusals) == {"A700"}
    daemon.wait_no_temporary_files()
    assert_nothing_lost(daemon, senders.ledger)
    daemon.empty()
    assert_takes_one(daemon)


def test_a_store_made_read_only_while_running(start_daemon: StartDaemon, disk: Path, tmp_path: Path) -> None:
    """A read-only mount over the store, because a plain remount is refused while files are open for writing."""
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(disk)})
    with (
        mounted("--bind", disk, on=read_only),
        Senders(lambda: daemon.address, seed=3, count=4, lasting=1, sizes=(3000,)) as senders,
    ):
        command("mount", "-o", "remount,bind,ro", read_only)  # possible here, where no file is open for writing
        wait_until(lambda: senders.ledger.total, TIMEOUT, until=lambda count: count > 40, what="nothing is stored")
        with mounted("--bind", read_only, on=disk):
            assert_takes_none(daemon)
            wait_until(lambda: senders.ledger.refusals, TIMEOUT, what="no instance is refused")
            assert set(senders.ledger.refusals) == {"A701"}
            senders.stop()
    assert_nothing_lost(daemon, senders.ledger)
    assert_takes_one(daemon)
    assert_restart_sweeps(daemon)


def test_a_file_system_that_finds_itself_damaged_turns_read_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """ext4 with errors=remount-ro. Recovery is up to the administrator: stop, unmount, check, mount, start."""
    needs("mkfs.ext4", "e2fsck")
    image, repaired, folder = tmp_path / "image", tmp_path / "repaired", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    command("mkfs.ext4", "-q", image)
    with attached(image) as device, mounted("-o", "errors=remount-ro", device, on=folder):
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip(f"{trigger} is not in this kernel")
        daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(folder / "store")})
        with Senders(lambda: daemon.address, seed=4, count=4, lasting=1, sizes=(3000, 100_000)) as senders:
            wait_until(lambda: senders.ledger.total, TIMEOUT, until=lambda count: count > 40, what="nothing is stored")
            trigger.write_text("1")
            assert_takes_none(daemon)
            wait_until(lambda: senders.ledger.refusals, TIMEOUT, what="no instance is refused")
            senders.stop()
        assert set(senders.ledger.refusals) == {"A701"}
        assert_nothing_lost(daemon, senders.ledger)
        daemon.stop()
    shutil.copyfile(image, repaired)  # a copy of the mounts, such as a container's, would keep the image busy
    assert subprocess.run(["e2fsck", "-p", repaired], stdout=subprocess.DEVNULL, check=False).returncode in (0, 1)
    with attached(repaired) as device, mounted(device, on=folder):
        daemon.start()
        assert_nothing_lost(daemon, senders.ledger)
        assert temporary_files(daemon.root) == set()
        assert_takes_one(daemon)
        daemon.check_health()
        daemon.stop()


def test_a_mount_goes_away_under_load_and_comes_back(start_daemon: StartDaemon, disk: Path, tmp_path: Path) -> None:
    """Every instance answered with success is on the disk, not in the folder that it was mounted on."""
    point = tmp_path / "point"
    point.mkdir()
    with mounted("--bind", disk, on=point):
        daemon = start_daemon(dicomd={"workers": 2}, storage={"root": str(point)})
        with Senders(lambda: daemon.address, seed=5, count=4, lasting=1, sizes=(3000,)) as senders:
            wait_until(lambda: senders.ledger.total, TIMEOUT, until=lambda count: count > 40, what="nothing is stored")
            command("umount", "--lazy", point)
            assert_takes_none(daemon)
            wait_until(lambda: senders.ledger.refusals, TIMEOUT, what="no instance is refused")
            senders.stop()
        assert set(senders.ledger.refusals) == {"A701"}
        assert list(point.iterdir()) == []
        command("mount", "--bind", disk, point)
        assert_nothing_lost(daemon, senders.ledger)
        assert_takes_one(daemon)
        assert_restart_sweeps(daemon)
        daemon.stop()


def test_a_worker_runs_out_of_descriptors(start_daemon: StartDaemon) -> None:
    """The limit is the kernel's, and is set to each number that is too low."""
    daemon = start_daemon(dicomd={"workers": 1})
    (worker,) = daemon.worker_pids()
    hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    statuses = []
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        assert peer.echo().status == 0
        opened = descriptors(worker)
        free = [number for number in range(max(opened) + 20) if number not in opened]
        for spare in range(12):
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (free[spare], hard[1]))
            try:
                answer = peer.store(instance())
                assert peer.echo().status == 0
            finally:
                resource.prlimit(worker, resource.RLIMIT_NOFILE, hard)
            statuses.append(f"{answer.status:04X}")
            daemon.wait_no_temporary_files()
            assert len(daemon.stored()) == 1 + statuses.count("0000")
        assert peer.store(instance()).status == 0
        peer.release()
    assert statuses[0] == "A703"
    assert statuses[-1] == "0000"
    assert statuses == sorted(statuses, reverse=True)
    assert daemon.ready()
