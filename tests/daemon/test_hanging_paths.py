"""A disk or file server that doesn't respond blocks any process that accesses it, which must never be the supervisor.

A hanging path is a FIFO without a writer, whose open never returns, or a path whose system calls strace delays.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomd.supervisor.control import ask
from tests.crash.strace import attached, parse
from tests.daemon.conftest import TLS_LISTENER, Connect, StartDaemon
from tests.daemon.test_reload import hold_eight_generations
from tests.support.certificates import Pki
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.processes import exists
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PLAIN = {"name": "dicom", "address": "127.0.0.1:0"}
REJECTED_WITHIN = 60.0  # seconds; dicomd waits 20 s for a path and 30 s for a worker


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Replace a file with a FIFO."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    os.mkfifo(path)
    try:
        yield
    finally:
        aside.replace(path)


def assert_goes_on(daemon: Daemon, peer: RawPeer, runtime: Path) -> None:
    """The supervisor is alive and answers commands, and its workers serve."""
    assert daemon.get("/-/healthy")[0] == 200
    assert peer.echo().status == 0
    assert peer.store(instance()).status == 0
    assert ask(runtime, {"command": "maintenance", "on": False}, timeout=5)["ok"]


def assert_rejected(daemon: Daemon, peer: RawPeer, runtime: Path, why: str) -> None:
    """The reload in progress fails for this reason, and until then everything else continues."""
    since = len(daemon.records)
    wait_until(
        lambda: assert_goes_on(daemon, peer, runtime) or daemon.logged("config rejected"), REJECTED_WITHIN, pause=0.5
    )
    rejected = daemon.logged("config rejected")[-1]
    assert why in rejected["config_errors"][0]
    assert not [r for r in daemon.records[since:] if r["event"] in ("worker died", "internal error")]
    assert daemon.status()["generation"] == 1


@pytest.mark.parametrize(
    ("name", "key"), [("dicomd.toml", ""), ("server.key", "tls.key: "), ("ca.pem", "tls.client_ca: ")]
)
def test_a_file_that_hangs_fails_a_reload_and_nothing_else(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path, name: str, key: str
) -> None:
    runtime, pki = tmp_path / "run", Pki.make(tmp_path)
    files = {"server.key": pki.tls()["key"], "ca.pem": str(pki.trusted)}
    daemon = start_daemon(
        dicomd={"workers": 1, "runtime_dir": str(runtime)},
        listen=[PLAIN, TLS_LISTENER],
        tls=pki.tls(client_ca=pki.trusted, client_certificate="optional"),
    )
    peer = connect(daemon)
    peer.associate()
    path = Path(files.get(name, daemon.config_path))
    with hanging(path):
        daemon.signal(signal.SIGHUP)
        assert_rejected(daemon, peer, runtime, f"{key}{path} gives no answer within 20 s")
    assert daemon.reload()["event"] == "config applied"
    assert peer.store(instance()).status == 0
    peer.release()


@contextmanager
def delayed(daemon: Daemon, call: str, path: Path, out: Path) -> Iterator[None]:
    """Delay each such call on the path by two minutes, in the supervisor and in processes that it forks from now on."""
    with attached(
        [daemon.pid], out, "-f", "-P", str(path), "-e", f"trace={call}", "-e", f"inject={call}:delay_enter=120s"
    ):
        yield


def test_a_store_that_hangs_while_a_configuration_is_validated_fails_the_reload(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    runtime = tmp_path / "run"
    daemon = start_daemon(dicomd={"workers": 1, "runtime_dir": str(runtime)})
    peer = connect(daemon)
    peer.associate()
    with delayed(daemon, "newfstatat", daemon.root, tmp_path / "trace"):
        daemon.signal(signal.SIGHUP)
        assert_rejected(daemon, peer, runtime, f"storage.root: {daemon.root} gives no answer within 20 s")
    wait_until(lambda: len(daemon.pids()), equals=3, what="the blocked process still exists")
    assert daemon.reload()["event"] == "config applied"


def test_workers_that_hang_in_the_store_at_their_start_fail_the_reload(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    runtime = tmp_path / "run"
    daemon = start_daemon(dicomd={"workers": 2, "runtime_dir": str(runtime)})
    peer = connect(daemon)
    peer.associate()
    with delayed(daemon, "openat", daemon.root / ".dicomd" / "store", tmp_path / "trace"):
        daemon.signal(signal.SIGHUP)
        assert_rejected(daemon, peer, runtime, "the new workers don't start: ")
    assert "30 s" in daemon.logged("config rejected")[-1]["config_errors"][0]
    wait_until(lambda: sorted(daemon.worker_pids().values()), equals=["ready", "ready"])
    assert daemon.reload()["event"] == "config applied"


def test_the_supervisor_looks_at_no_path_of_the_configuration(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """From its start, throughout reloads, a worker's death, commands and a stop."""
    runtime, spool, pki = tmp_path / "run", tmp_path / "spool", Pki.make(tmp_path)
    daemon = start_daemon(
        dicomd={"workers": 1, "runtime_dir": str(runtime)},
        listen=[PLAIN, TLS_LISTENER],
        tls=pki.tls(client_ca=pki.trusted, client_certificate="optional"),
        audit={"spool": str(spool)},
    )
    whole, out = daemon.config_path.read_text(), tmp_path / "trace"
    with attached([daemon.pid], out, "-e", "trace=%file,%desc"):
        daemon.configure(dicomd={"workers": 2})
        assert daemon.reload()["event"] == "config applied"
        daemon.config_path.write_text("broken")
        assert daemon.reload()["event"] == "config rejected"
        daemon.config_path.write_text(whole)
        wait_until(lambda: list(daemon.worker_pids().values()), equals=["ready", "ready"])
        os.kill(next(iter(daemon.worker_pids())), signal.SIGKILL)
        daemon.wait_logged("worker died")
        wait_until(lambda: list(daemon.worker_pids().values()), equals=["ready", "ready"])
        for request in ({"command": "status"}, {"command": "maintenance", "on": True}, {"command": "reload"}):
            assert ask(runtime, request, timeout=30)["ok"]
        with RawPeer(daemon.address) as peer:
            peer.send(associate_rq())
            assert peer.read_rejection() == (2, 3, 1)
        assert len(list(Path(f"/proc/{daemon.pid}/task").iterdir())) == 1  # no other thread that the trace would miss
        daemon.stop()
    calls = parse(out.read_text())
    assert len(calls) > 100
    named = (daemon.root, spool, pki.folder / "server.pem", pki.folder / "server.key", pki.trusted, daemon.config_path)
    for call in calls:
        for path in (call.descriptor, *call.paths):
            assert not any(Path(path).is_relative_to(each) for each in named), call


@contextmanager
def held_by_the_kernel(pid: int, path: Path, out: Path) -> Iterator[None]:
    """Keep a worker from dying by SIGKILL: a thread's access to the path takes two minutes in the kernel."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    options = ["-f", "-P", path, "-e", "trace=openat", "-e", "inject=openat:delay_enter=120s"]
    strace = subprocess.Popen(["strace", "-o", out, *options, "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: out.exists() and "openat(" in out.read_text())
        yield
    finally:
        strace.kill()  # with a gentler signal strace would wait for the delay to end
        strace.wait()


def test_a_stop_leaves_workers_behind_that_the_kernel_holds(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "1s"})
    peer = connect(daemon)
    peer.associate()
    (pid,) = daemon.worker_pids()
    with held_by_the_kernel(pid, daemon.root / ".dicomd" / "store", tmp_path / "trace"):
        wait_until(lambda: not daemon.ready(), 40)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        left = daemon.logged("workers are left behind")
        assert [str(pid) in record["detail"] for record in left] == [True]
    wait_until(lambda: not exists(pid), what="the worker does not end")


def test_an_old_generation_that_the_kernel_holds_fails_the_reload_that_waits_for_its_place(
    start_daemon: StartDaemon, connect: Connect, tmp_path: Path
) -> None:
    daemon = start_daemon(dicomd={"workers": 1, "drain_timeout": "1s"})
    (pid,) = daemon.worker_pids()
    peers = hold_eight_generations(daemon, connect)
    with held_by_the_kernel(pid, daemon.root / ".dicomd" / "store", tmp_path / "trace"):
        daemon.signal(signal.SIGHUP)
        rejected = daemon.wait_logged("config rejected", deadline=60)
        assert "workers of the old generation 1 can't be ended" in rejected["config_errors"][0]
        for peer in peers[1:]:
            assert peer.store(instance()).status == 0
        assert daemon.reload()["event"] == "config applied", "the next oldest makes room"
        for peer in peers[2:]:
            assert peer.store(instance()).status == 0


def validating(daemon: Daemon) -> int:
    """Request a reload and return the pid of the process that validates it."""
    before = set(daemon.pids())
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: set(daemon.pids()) - before)
    (pid,) = set(daemon.pids()) - before
    return pid


def test_a_validation_that_dies_fails_the_reload(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    with hanging(daemon.config_path):
        os.kill(validating(daemon), signal.SIGKILL)
        rejected = daemon.wait_logged("config rejected")
    assert rejected["config_errors"] == [f"{daemon.config_path}: the process that validated it has died"]
    assert daemon.reload()["event"] == "config applied"
    assert len(daemon.logged("config applied")) == 1


def test_a_stop_waits_for_no_validation(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    with hanging(daemon.config_path):
        pid = validating(daemon)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(15) == 0  # less than the deadline of a validation
        wait_until(lambda: not exists(pid))
