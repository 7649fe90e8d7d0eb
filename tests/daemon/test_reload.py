"""SIGHUP: the new configuration holds for new Associations, the old one for open ones, none is lost (CONTRACT 3)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dicomd.config.keys import tables
from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon, free_port
from tests.support.failed_start import failed_start
from tests.support.load import Load
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, MR_IMAGE_STORAGE, instance
from tests.support.processes import descriptors
from tests.support.raw_peer import Abort, RawPeer, associate_rq, store_message
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

BOTH = ((CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (MR_IMAGE_STORAGE, [EXPLICIT_LITTLE]))
ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED = 0, 3


def results(peer: RawPeer) -> list[int]:
    """The results of an Association's Presentation Contexts."""
    return [peer.contexts[context_id].result for context_id in (1, 3)]


def command(daemon: Daemon, *arguments: str, runtime: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of dicomd's on the running daemon."""
    return subprocess.run(
        [sys.executable, "-m", "dicomd", *arguments, "--config", str(daemon.config_path)],
        env=os.environ | {"RUNTIME_DIRECTORY": str(runtime)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_open_association_ends_under_the_old_contexts_and_the_next_gets_the_new(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    daemon = start_daemon(dicomd={"workers": 2}, contexts={"sop_classes": ["CTImageStorage"]})
    old = connect(daemon)
    old.associate(BOTH)
    assert results(old) == [ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED]
    sent = instance(size=200_000)
    old.send(store_message(sent)[:50_000])
    daemon.configure(contexts={"sop_classes": ["MRImageStorage"]})
    applied = daemon.reload()
    assert applied["event"] == "config applied"
    assert applied["dicomd_generation"] == 2
    new = connect(daemon)
    new.associate(BOTH)
    assert results(new) == [ABSTRACT_SYNTAX_NOT_SUPPORTED, ACCEPTED]
    old.send(store_message(sent)[50_000:])
    assert old.read_message().status == 0
    assert old.store(instance()).status == 0
    assert new.store(instance(sop_class_uid=MR_IMAGE_STORAGE), context_id=3).status == 0
    new.release()
    old.release()
    assert len(daemon.stored()) == 3
    wait_until(lambda: len(daemon.worker_pids()), equals=2)
    for generation in (1, 2):
        daemon.wait_logged("association ended", dicomd_generation=generation)


def test_a_connection_that_was_accepted_before_a_reload_still_gets_its_association(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    daemon = start_daemon()
    early = connect(daemon)
    daemon.wait_metric("dicomd_connections_total", 1, listener="dicom")
    assert daemon.reload()["event"] == "config applied"
    early.associate()
    assert early.store(instance()).status == 0
    early.release()


@pytest.mark.parametrize(
    "text", ["not TOML at all", "[limits]\nassociations = 0\nassocations = 1\n"], ids=["no TOML", "two errors"]
)
def test_a_broken_file_changes_nothing(start_daemon: StartDaemon, connect: Connect, text: str) -> None:
    daemon = start_daemon()
    whole = daemon.config_path.read_text()
    before = daemon.metric("dicomd_config_last_reload_success_timestamp_seconds")
    workers = daemon.worker_pids()
    daemon.config_path.write_text(text)
    rejected = daemon.reload()
    assert rejected["event"] == "config rejected"
    assert rejected["config_error_count"] == len(rejected["config_errors"]) >= 1
    assert str(daemon.config_path) in rejected["config_errors"][0]
    assert daemon.metric("dicomd_config_last_reload_successful") == 0
    assert daemon.metric("dicomd_config_last_reload_success_timestamp_seconds") == before
    assert daemon.worker_pids() == workers
    peer = connect(daemon)
    peer.associate()
    assert peer.store(instance()).status == 0
    peer.release()
    daemon.config_path.write_text(whole)
    assert daemon.reload()["event"] == "config applied"
    assert daemon.metric("dicomd_config_last_reload_successful") == 1


def test_a_file_that_is_gone_changes_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.config_path.unlink()
    assert daemon.reload()["event"] == "config rejected"
    assert daemon.ready()


NEEDS_A_RESTART = ["dicomd.runtime_dir", "listen", "storage.root", "http.address", "log.format"]


def test_what_needs_a_restart_keeps_its_value_and_is_named(start_daemon: StartDaemon, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    daemon = start_daemon(dicomd={"runtime_dir": str(runtime)}, log={"format": "json"})
    whole = daemon.config_path.read_text()
    daemon.configure(
        dicomd={"runtime_dir": str(tmp_path / "another")},
        listen=[{"name": "other", "address": "127.0.0.1:0"}],
        storage={"root": str(tmp_path / "elsewhere")},
        http={"address": f"127.0.0.1:{free_port()}"},
        log={"format": "console"},
        limits={"associations": 7},
    )
    applied = daemon.reload()  # finds its log record as JSON, as before
    assert applied["restart_pending"] == NEEDS_A_RESTART
    assert daemon.status()["configuration"]["restart_pending"] == NEEDS_A_RESTART
    assert daemon.metric("dicomd_config_restart_pending") == 1  # the address as before
    assert daemon.metric("dicomd_associations_limit") == 7
    assert (runtime / "control").is_socket()
    assert not (tmp_path / "another").exists()
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()
    assert len(daemon.stored()) == 1
    daemon.config_path.write_text("broken")
    daemon.reload()
    assert daemon.metric("dicomd_config_restart_pending") == 1
    daemon.config_path.write_text(whole)
    assert daemon.reload()["restart_pending"] == []
    assert daemon.metric("dicomd_config_restart_pending") == 0


def test_no_other_key_needs_a_restart() -> None:
    paths = [table.name if table.repeated else key.path for table in tables() for key in table.keys if not key.reload]
    assert list(dict.fromkeys(paths)) == NEEDS_A_RESTART


def longest_pdu(peer: RawPeer) -> int:
    """The maximum length that the acceptor has announced."""
    (value,) = wire.user_information(peer.accept.body)[0x51]
    return int.from_bytes(value)


@pytest.mark.timeout(120)
def test_new_limits_hold_for_new_associations_and_open_ones_keep_theirs(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    old = connect(daemon)
    old.associate()
    assert longest_pdu(old) == 256 * 1024
    daemon.configure(
        limits={
            "connections": 3,
            "associations_per_peer": 2,
            "max_pdu": "16KiB",
            "association_idle": "3s",
            "request_timeout": "6s",
        },
        storage={"max_object_size": "100KiB"},
    )
    assert daemon.reload()["event"] == "config applied"
    new = connect(daemon)
    new.associate()
    assert longest_pdu(new) == 16 * 1024
    large = instance(size=200_000)
    assert f"{new.store(large).status:04X}" == "A710"
    too_many = connect(daemon)
    too_many.send(associate_rq())
    assert too_many.read_rejection() == (2, 3, 2)
    too_many.sock.close()
    wait_until(daemon.connections, equals=2)
    silent = connect(daemon)
    daemon.wait_metric("dicomd_connections_total", 4, listener="dicom")
    assert connect(daemon).read_to_the_end() == []
    assert old.store(large, fragment=100_000).status == 0
    assert new.read_abort(30) == Abort(0, 0)
    silent.read_end(30)
    for limit in ("connections", "associations_per_peer", "max_object_size", "association_idle", "request_timeout"):
        daemon.wait_metric("dicomd_limit_hits_total", 1, limit=limit)
    old.release()


@pytest.mark.timeout(120)
def test_the_minimum_rate_comes_with_a_reload_and_an_open_association_keeps_its_own(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    """Takes 30 s, because the rate is averaged over 30 s."""
    daemon = start_daemon(dicomd={"workers": 1}, limits={"minimum_rate": "0B/s"})
    old = connect(daemon)
    old.associate()
    daemon.configure(limits={"minimum_rate": "1KiB/s"})
    assert daemon.reload()["event"] == "config applied"
    new = connect(daemon)
    new.associate()
    kept, lost = instance(), instance()
    first, second = store_message(kept), store_message(lost)
    old.send(first[:300])
    new.send(second[:300])
    assert new.read_abort(60) == Abort(0, 0)
    daemon.wait_metric("dicomd_limit_hits_total", 1, limit="minimum_rate")
    old.send(first[300:])
    assert old.read_message().status == 0
    old.release()
    assert {file.sop_instance_uid for file in daemon.stored()} == {kept.sop_instance_uid}


def test_limits_level_and_number_of_workers_come_with_a_reload(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 1}, log={"level": "debug"})
    old = connect(daemon)
    old.associate()
    daemon.configure(dicomd={"workers": 3}, limits={"associations": 2}, log={"level": "warning"})
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.metric("dicomd_associations_limit"), equals=2)
    assert sorted(daemon.worker_pids().values()) == ["draining", "ready", "ready", "ready"]
    new = connect(daemon)
    new.associate()
    third = connect(daemon)
    third.send(associate_rq())
    assert third.read_rejection() == (2, 3, 2)  # the old generation's Association counts too
    new.release()
    old.release()
    wait_until(lambda: len(daemon.worker_pids()), equals=3)
    daemon.configure(dicomd={"workers": 1}, limits={"associations": 3})
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: len(daemon.worker_pids()), equals=1)
    daemon.wait_logged("association ended")
    assert len(daemon.logged("association ended")) == 1  # the old generation's: the new one does not log level 'info'
    daemon.configure(log={"level": "info"})
    assert daemon.reload()["event"] == "config applied"
    talkative = connect(daemon)
    talkative.associate()
    talkative.release()
    daemon.wait_logged("association ended", dicomd_generation=4)


def test_a_volley_of_signals_is_merged(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    for _ in range(200):
        daemon.signal(signal.SIGHUP)
    daemon.wait_logged("config applied")
    daemon.configure(limits={"associations": 9})
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.metric("dicomd_associations_limit"), equals=9)
    assert len(daemon.logged("config applied")) < 100
    wait_until(lambda: len(daemon.worker_pids()), equals=1)


def hold_eight_generations(daemon: Daemon, connect: Connect) -> list[RawPeer]:
    """Peers, each with an open Association in an old generation of its own, the oldest first."""
    peers = []
    for _ in range(8):
        peers.append(connect(daemon))
        peers[-1].associate()
        assert daemon.reload()["event"] == "config applied"
    return peers


@pytest.mark.timeout(180)
def test_at_most_eight_old_generations_live_and_the_next_reload_waits(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    peers = hold_eight_generations(daemon, connect)
    assert list(daemon.worker_pids().values()).count("draining") == 8
    for number in (20, 30):  # only the later one counts
        daemon.configure(limits={"associations": number})
        daemon.signal(signal.SIGHUP)
    daemon.wait_logged("reload waits")
    assert len(daemon.logged("config applied")) == 8
    for peer in peers:
        assert peer.store(instance()).status == 0
    peers.pop(0).release()
    wait_until(lambda: len(daemon.logged("config applied")), equals=9)
    assert daemon.metric("dicomd_associations_limit") == 30
    for peer in peers:
        peer.release()
    wait_until(lambda: len(daemon.worker_pids()), equals=1)


@pytest.mark.timeout(180)
def test_peers_hold_a_reload_up_for_no_longer_than_the_drain_timeout(
    start_daemon: StartDaemon, connect: Connect
) -> None:
    """A peer must not delay the very reload that shuts it out, nor may eight commands whose callers have given up."""
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "3s"})
    peers = hold_eight_generations(daemon, connect)
    sent = instance(size=200_000)
    peers[0].send(store_message(sent)[:50_000])
    daemon.configure(peers=[{"name": "other", "ae_titles": ["OTHER"]}])
    daemon.signal(signal.SIGHUP)
    waits = daemon.wait_logged("reload waits")
    assert "those of generation 1, the oldest, are aborted in 3 s" in waits["detail"]
    peers[0].send(store_message(sent)[50_000:])
    assert peers[0].read_message().status == 0
    assert peers[0].read_abort() == Abort(0, 0)
    ended = daemon.wait_logged("association ended", dicomd_generation=1)
    assert ended["outcome"] == "aborted_locally"
    assert "a reload was waiting for this old configuration to end" in ended["error"]
    assert ended["instances"] == 1
    daemon.wait_logged("config applied", dicomd_generation=10)
    shut_out = connect(daemon)
    shut_out.send(associate_rq())
    assert shut_out.read_rejection() == (1, 1, 3)
    for peer in peers[1:]:
        assert peer.store(instance()).status == 0
    assert len(daemon.logged("old generation is ended")) == 1


@pytest.mark.timeout(180)
def test_a_place_that_comes_free_meanwhile_spares_the_oldest(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "60s"})
    peers = hold_eight_generations(daemon, connect)
    ninth = connect(daemon)  # keeps the serving generation alive, which takes the slot that becomes free
    ninth.associate()
    daemon.signal(signal.SIGHUP)
    daemon.wait_logged("reload waits")
    peers[5].release()
    daemon.wait_logged("config applied", dicomd_generation=10)
    assert peers[0].store(instance()).status == 0
    daemon.signal(signal.SIGHUP)  # no deadline is left over from the previous wait
    wait_until(lambda: len(daemon.logged("reload waits")), equals=2)
    peers[7].release()
    daemon.wait_logged("config applied", dicomd_generation=11)
    assert daemon.logged("old generation is ended") == []
    assert peers[0].store(instance()).status == 0


@pytest.mark.timeout(180)
def test_reloads_that_wait_and_those_who_gave_up_keep_nobody_out(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    runtime = tmp_path / "run"
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "170s", "runtime_dir": str(runtime)})
    peers = hold_eight_generations(daemon, connect)
    waiting = [
        subprocess.Popen(
            [sys.executable, "-m", "dicomd", "reload", "--timeout", "1", "--config", str(daemon.config_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(9)
    ]
    for process in waiting:
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, "gave no answer within 1 s" in said) == (1, True), said
    for arguments in (("status",), ("maintenance", "on"), ("maintenance", "off")):
        done = command(daemon, *arguments, runtime=runtime)
        assert done.returncode == 0, done.stderr
    for peer in peers:
        peer.release()
    daemon.wait_logged("config applied", dicomd_generation=10)


@pytest.mark.timeout(180)
def test_a_stop_ends_a_reload_that_waits(start_daemon: StartDaemon, connect: Connect, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "2s", "runtime_dir": str(runtime)})
    hold_eight_generations(daemon, connect)
    daemon.configure(dicomd={"drain_timeout": "1s"})
    with subprocess.Popen(
        [sys.executable, "-m", "dicomd", "reload", "--config", str(daemon.config_path)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        daemon.wait_logged("reload waits")
        daemon.signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "dicomd stops" in said) == (1, True)
    assert daemon.wait() == 0


def test_a_stop_reaches_old_generations_too(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "1s"})
    peer = connect(daemon)
    peer.associate()
    daemon.reload()
    daemon.signal(signal.SIGTERM)
    peer.read_abort()
    assert daemon.wait() == 0


class Counters:
    """Every counter on /metrics; `fallen` are those that were lower or missing in a later scrape."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._last: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.fallen: list[str] = []

    def look(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Scrape all samples."""
        found = self._daemon.metrics()
        for series, before in self._last.items():
            if (now := found.get(series)) is None or now < before:
                self.fallen.append(f"{series} from {before} to {now}")
        counters = ("_total", "_count", "_sum", "_bucket")
        self._last = {s: found[s] for s in found if s[0].startswith("dicomd_") and s[0].endswith(counters)}
        assert len(self._last) > 20
        return found


def counted_descriptors(pid: int, root: Path) -> int:
    """Open descriptors of a process, without the store's folders, of which a worker caches more as it stores."""
    targets = map(Path, descriptors(pid).values())
    return sum(1 for target in targets if not target.is_relative_to(root) or ".dicomd" in target.parts)


def resident(pid: int) -> int:
    """The resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def idle_workers(daemon: Daemon, count: int) -> dict[str, int]:
    """The highest resource figures of any worker, once only `count` idle workers are left."""
    wait_until(lambda: list(daemon.worker_pids().values()), 60, equals=["ready"] * count)
    wait_until(lambda: daemon.metric("dicomd_associations_active", listener="dicom"), 60, equals=0)
    pids = list(daemon.worker_pids())
    most = max(counted_descriptors(pid, daemon.root) for pid in pids)
    return {"descriptors": most, "resident": max(map(resident, pids))}


@pytest.mark.timeout(400)
def test_fifty_reloads_under_load_fail_no_store(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd={"workers": 2}, log={"instances": False})
    counters = Counters(daemon)
    room = 8 * 1024 * 1024  # bytes

    def in_force(limit: int) -> bool:
        return counters.look()["dicomd_associations_limit", frozenset()] == limit

    def reload(number: int) -> None:
        daemon.configure(limits={"associations": 100 + number})
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: in_force(100 + number), 60)

    def serve_more(load: Load) -> None:
        served = len(load.acknowledged)
        wait_until(lambda: len(load.acknowledged), 60, until=lambda count: count >= served + 200)

    with Load(daemon, senders=4, size=5000) as first:
        serve_more(first)
    first_generation = idle_workers(daemon, 2)
    with Load(daemon, senders=4, size=5000) as load:
        for number in range(10):  # resources allocated on first use may remain
            reload(number)
        before, resident_before = counted_descriptors(daemon.pid, daemon.root), resident(daemon.pid)
        for number in range(10, 60):
            reload(number)
        after = counted_descriptors(daemon.pid, daemon.root)
        serve_more(load)
    assert first.failures + load.failures == []
    assert first.lost() + load.lost() == []
    assert after <= before + 2 * 9  # channels to workers that were still draining
    assert resident(daemon.pid) < resident_before + room
    last_generation = idle_workers(daemon, 2)
    wait_until(lambda: counted_descriptors(daemon.pid, daemon.root), 30, until=lambda count: count <= before)
    wait_until(
        lambda: idle_workers(daemon, 2)["descriptors"], 30, until=lambda seen: seen <= first_generation["descriptors"]
    )
    assert last_generation["resident"] < first_generation["resident"] + room
    daemon.wait_metric("dicomd_instances_stored_total", len(first.acknowledged) + len(load.acknowledged))
    counters.look()
    assert counters.fallen == []


def test_maintenance_survives_a_reload(start_daemon: StartDaemon, connect: Connect, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    daemon = start_daemon(dicomd={"workers": 2, "runtime_dir": str(runtime)})
    held = connect(daemon)
    held.associate()
    done = command(daemon, "maintenance", "on", runtime=tmp_path)
    assert (done.returncode, done.stdout) == (0, "maintenance is on; 1 Association open\n"), done.stderr
    for _ in range(2):
        code, text = daemon.get("/-/ready")
        assert (code, text) == (503, "not ready: dicomd is in maintenance\n")
        refused = connect(daemon)
        refused.send(associate_rq())
        assert refused.read_rejection() == (2, 3, 1)
        refused.sock.close()
        assert held.store(instance()).status == 0
        assert daemon.reload()["event"] == "config applied"
    held.release()
    assert command(daemon, "maintenance", "off", runtime=tmp_path).returncode == 0
    assert daemon.ready()
    again = connect(daemon)
    again.associate()
    again.release()


def test_the_commands_find_the_daemon_by_its_runtime_directory(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """As under systemd, where the configuration does not name it."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    daemon = Daemon(tmp_path)
    daemon.environment = {"RUNTIME_DIRECTORY": f"{runtime}:{runtime}/other"}
    with daemon:
        assert command(daemon, "maintenance", "on", runtime=runtime).returncode == 0
        assert not daemon.ready()
        daemon.configure(limits={"associations": 5})
        done = command(daemon, "reload", runtime=runtime)
        assert (done.returncode, done.stdout) == (0, "generation 2 serves new Associations\n"), done.stderr
        assert daemon.metric("dicomd_associations_limit") == 5
        daemon.configure(limits={"associations": 0})
        done = command(daemon, "reload", runtime=runtime)
        assert done.returncode == 1
        assert "limits.associations" in done.stderr
        assert (runtime / "control").stat().st_mode & 0o777 == 0o660
    assert [path.name for path in runtime.iterdir()] == ["lock"]
    done = command(daemon, "maintenance", "off", runtime=runtime)
    assert done.returncode == 1
    assert "no daemon answers" in done.stderr


def test_one_runtime_directory_has_one_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    runtime = str(tmp_path / "run")
    start_daemon(dicomd={"runtime_dir": runtime})
    second = Daemon(tmp_path, {"dicomd": {"runtime_dir": runtime}})
    done = failed_start(second.config_path)
    assert done.returncode == 1
    assert "another dicomd runs with" in done.stderr
