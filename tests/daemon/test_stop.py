"""Stopping the daemon: drained on SIGTERM, hurried by a second one, swept after a crash (CONTRACT 2, 4)."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.daemon import WAIT, Daemon
from tests.support.encoding import p_data, pdv
from tests.support.failed_start import failed_start
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, instance
from tests.support.raw_peer import Abort, RawPeer, associate_rq, c_store_rq, store_message
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own


def drained(daemon: Daemon, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal and wait until the drain has begun."""
    daemon.signal(number)
    daemon.wait_logged("stopping")
    wait_until(lambda: not daemon.ready(), WAIT, what="the daemon is still ready although it is stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_stops_at_once(start_daemon: StartDaemon, number: signal.Signals) -> None:
    daemon = start_daemon(dicomd={"drain_timeout": "60s"})
    began = time.monotonic()
    daemon.signal(number)
    assert daemon.wait() == 0
    assert time.monotonic() - began < 30
    assert daemon.logged("stopping", signal=number.name)
    assert daemon.logged("stopped")


def test_an_object_under_way_is_finished_and_answered(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon()
    sent = instance(size=500_000)
    message = store_message(sent)
    peer = connect(daemon)
    peer.associate()
    peer.send(message[:200_000])
    drained(daemon)
    peer.send(message[200_000:])
    assert peer.read_message().status == 0
    following = instance()
    assert peer.store(following).status == 0
    peer.release()
    assert daemon.wait() == 0
    assert {file.data_set for file in daemon.stored()} == {sent.data_set, following.data_set}
    assert daemon.temporary_files() == []
    assert daemon.logged("association ended", outcome="released")


def test_new_associations_are_not_taken_while_it_drains(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon()
    peer, early = connect(daemon), connect(daemon)
    peer.associate()
    daemon.wait_metric("dicomd_connections_total", 2, listener="dicom")
    drained(daemon)
    early.send(associate_rq())  # its connection was accepted before the drain
    assert early.read_rejection() == (2, 3, 1)
    early.sock.close()
    try:
        with RawPeer(daemon.address) as late:
            late.send(associate_rq())
            assert late.read_rejection() == (2, 3, 1)
    except ConnectionRefusedError:
        pass
    except ConnectionError as error:
        assert "reset" in str(error)  # noqa: PT017 - it arrived just before the listener closed and was never accepted
    code, text = daemon.get("/-/ready")
    assert code == 503
    assert text.strip()
    assert daemon.get("/-/healthy")[0] == 200
    assert peer.store(instance()).status == 0
    peer.release()
    assert daemon.wait() == 0


def test_what_is_not_over_at_the_end_of_the_drain_is_aborted(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"drain_timeout": "1s"})
    unfinished = instance(size=50_000)
    idle, busy, silent = (connect(daemon) for _ in range(3))
    idle.associate()
    busy.associate()
    busy.send(p_data(pdv(1, 3, c_store_rq(unfinished))) + p_data(pdv(1, 0, unfinished.data_set[:10_000])))
    daemon.wait_metric("dicomd_connections_total", 3, listener="dicom")
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    for peer in (idle, busy):
        assert peer.read_abort() == Abort(0, 0)
    silent.sock.close()
    assert daemon.wait() == 0
    assert 1 <= time.monotonic() - began < 30
    assert daemon.paths() == []
    assert daemon.temporary_files() == []
    assert len(daemon.logged("association ended", outcome="aborted_locally")) == 2


def test_a_second_signal_cuts_the_drain_short(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"drain_timeout": "60s"})
    peer = connect(daemon)
    peer.associate()
    drained(daemon)
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert peer.read_abort() == Abort(0, 0)
    assert daemon.wait() == 0
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("durability", ["fsync", "none"])
def test_nothing_answered_is_lost_in_a_crash_and_nothing_unfinished_stays(
    start_daemon: StartDaemon, connect: Connect, durability: str
) -> None:
    daemon = start_daemon(storage={"durability": durability})
    stored, unfinished = instance(size=100_000), instance(size=1_000_000)  # more than is held in memory
    peer = connect(daemon)
    peer.associate()
    assert peer.store(stored).status == 0
    daemon.wait_no_temporary_files()  # the temporary name of the first
    peer.send(p_data(pdv(1, 3, c_store_rq(unfinished))))
    for at in (0, 200_000, 400_000):
        peer.send(p_data(pdv(1, 0, unfinished.data_set[at : at + 200_000])))
    wait_until(daemon.unfinished_files, 10, what="the object is not written as it is received")
    daemon.kill()
    assert daemon.unfinished_files() != []
    assert [file.data_set for file in daemon.stored()] == [stored.data_set]
    daemon.start()
    daemon.wait_no_temporary_files()
    assert [file.data_set for file in daemon.stored()] == [stored.data_set]
    peer = connect(daemon)
    peer.associate()
    assert peer.store(unfinished).status == 0
    assert peer.store(stored).status == 0
    peer.release()
    assert len(daemon.stored()) == 2


def test_a_stop_and_a_start_go_on_where_it_was(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon()
    sent = instance()
    for _ in range(2):
        peer = connect(daemon)
        peer.associate()
        assert peer.store(sent).status == 0
        peer.release()
        daemon.stop()
        daemon.start()
    assert [file.data_set for file in daemon.stored()] == [sent.data_set]


def test_the_store_holds_nothing_but_instances(start_daemon: StartDaemon, connect: Connect) -> None:
    """Modes, names and places as CONTRACT 4 specifies."""
    daemon = start_daemon()
    peer = connect(daemon)
    peer.associate()
    sent = instance()
    assert peer.store(sent).status == 0
    peer.release()
    (path,) = daemon.paths()
    assert path == (
        daemon.root
        / f"{sent.sop_instance_uid}.1"[-64:]
        / f"{sent.sop_instance_uid}.2"[-64:]
        / f"{sent.sop_instance_uid}.dcm"
    )
    assert path.stat().st_mode & 0o7777 == 0o640
    daemon.wait_no_temporary_files()
    assert path.stat().st_nlink == 1
    for folder in (path.parent, path.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o750
    assert {entry.name for entry in daemon.root.iterdir()} == {".dicomd", path.parent.parent.name}
    assert (daemon.root / ".dicomd").stat().st_mode & 0o777 == 0o700


@pytest.mark.root
def test_the_group_of_a_setgid_root_goes_to_all_that_is_made_below_it(tmp_path: Path) -> None:
    """Also to folders that are built aside and moved into place because others had removed the old ones."""
    readers, folder = 31337, tmp_path / "dicomd"
    folder.mkdir()
    daemon = Daemon(folder, {})
    daemon.root.mkdir()
    os.chown(daemon.root, -1, readers)
    daemon.root.chmod(0o2750)
    with daemon:
        with RawPeer(daemon.address) as peer:
            peer.associate()
            assert peer.store(instance()).status == 0
            daemon.empty()
            for _ in range(3):
                assert peer.store(instance()).status == 0
            peer.release()
        everything = [daemon.root, *daemon.root.rglob("*")]
        assert len(daemon.paths()) == 3
        for path in everything:
            status = path.stat()
            assert status.st_gid == readers, path
            assert bool(status.st_mode & stat.S_ISGID) == path.is_dir(), path


@pytest.mark.parametrize(
    "text",
    ["[dicomd]\nae_titels = []\n", "[storage]\nroot = 5\n", "not TOML at all"],
    ids=["unknown key", "wrong type", "no TOML"],
)
def test_a_bad_configuration_is_exit_status_78(tmp_path: Path, text: str) -> None:
    config = tmp_path / "dicomd.toml"
    config.write_text(text)
    done = failed_start(config)
    assert done.returncode == 78
    assert str(config) in done.stderr


def test_a_port_that_is_taken_ends_the_start_with_a_sentence(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon()
    second = Daemon(tmp_path, {"listen": [{"name": "dicom", "address": f"127.0.0.1:{first.port}"}]})
    done = failed_start(second.config_path)
    assert f"127.0.0.1:{first.port}" in done.stderr
    with RawPeer(first.address) as peer:
        peer.associate([(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE])])
        assert peer.store(instance()).status == 0
        peer.release()
