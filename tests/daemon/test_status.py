"""The status that operators can ask for: `dicomd status`, /status and the status page in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import senders
from tests.support.daemon import WAIT, Daemon
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, instance, new_uid
from tests.support.raw_peer import associate_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own


def ask(daemon: Daemon, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `dicomd status`."""
    command = [sys.executable, "-m", "dicomd", "status", "--config", str(daemon.config_path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)


def as_json(daemon: Daemon) -> dict[str, Any]:
    done = ask(daemon, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_status(daemon: Daemon, fulfilled: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Wait until the JSON of /status fulfils a condition, and return it."""
    return wait_until(daemon.status, WAIT, until=fulfilled, pause=0.05)


@pytest.fixture
def runtime_dir(tmp_path: Path) -> str:
    """A runtime directory with a short path, in which the commands look."""
    folder = tmp_path / "run"
    folder.mkdir()
    return str(folder)


def mismatch() -> Instance:
    """An instance whose Data Set has a different UID from its command, which is answered with A900."""
    return Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(data_set(new_uid())))


def test_it_tells_what_is_open_what_was_counted_and_what_was_refused(
    start_daemon: StartDaemon, connect: Connect, runtime_dir: str
) -> None:
    daemon = start_daemon(dicomd={"ae_titles": ["DICOMD"], "workers": 2, "runtime_dir": runtime_dir})
    open_one = connect(daemon, calling="CT1")
    open_one.associate()
    sent = [instance(size=3000) for _ in range(3)]
    for one in sent:
        assert open_one.store(one).status == 0
    assert open_one.store(mismatch()).status == 0xA900
    over = connect(daemon, calling="MR1")
    over.associate()
    over.store(instance(size=1000))
    over.release()
    for _ in range(2):
        rejected = connect(daemon, calling="US1")
        rejected.send(associate_rq(called="OTHER", calling="US1"))
        rejected.read_rejection()
        rejected.sock.close()
    wait_status(daemon, lambda status: status["counters"]["associations"] == 3)
    status = as_json(daemon)
    assert status["ready"] is True
    assert status["version"]
    assert status["uptime_seconds"] >= 0
    assert status["generation"] == 1
    assert [worker["state"] for worker in status["workers"]] == ["ready", "ready"]
    assert status["associations"]["open"] == 1
    (shown,) = status["associations"]["listed"]
    assert (shown["calling_aet"], shown["called_aet"], shown["peer_address"]) == ("CT1", "DICOMD", "127.0.0.1")
    assert (shown["instances"], shown["failures"]) == (3, 1)
    assert shown["bytes"] > sum(len(one.data_set) for one in sent)
    assert (status["counters"]["instances"], status["counters"]["failures"]) == (4, 1)
    assert status["counters"]["rejected"] == 2
    assert status["store"]["accepting"] is True
    assert 0 < status["store"]["avail_bytes"] <= status["store"]["size_bytes"]
    assert status["configuration"]["last_reload"]["successful"] is True
    (peer,) = status["peers"]
    assert (peer["peer"], peer["instances"]) == ("unknown", 4)
    assert peer["last_store"]
    refusals = {refusal["refused"]: refusal for refusal in status["refusals"]}
    assert refusals["association"]["count"] == 2
    assert (refusals["association"]["calling"], refusals["association"]["why"]) == ("US1", "rejected 1/1/7")
    assert "ae_titles" in refusals["association"]["advice"]
    assert refusals["instance"]["why"].startswith("A900 ")
    text = ask(daemon).stdout
    for told in (
        "accepting instances",
        "CT1",
        "4 instances stored",
        "rejected 1/1/7",
        "every peer that can connect may store",
    ):
        assert told in text
    open_one.release()
    wait_status(daemon, lambda status: not status["associations"]["listed"])


def test_a_rejected_reload_is_told_though_the_file_can_t_be_read(
    start_daemon: StartDaemon, connect: Connect, runtime_dir: str
) -> None:
    daemon = start_daemon(dicomd={"runtime_dir": runtime_dir})
    daemon.configure(log={"level": "loud"})
    assert daemon.reload()["event"] == "config rejected"
    last = as_json(daemon)["configuration"]["last_reload"]
    assert last["successful"] is False
    assert "log.level" in last["errors"][0]
    assert "the last reload was rejected" in ask(daemon).stdout
    assert "The last reload was rejected" in daemon.get("/")[1]
    daemon.configure(log={"level": "debug"}, storage={"root": str(daemon.root) + "2"})
    assert daemon.reload()["event"] == "config applied"
    status = as_json(daemon)
    assert status["generation"] == 2
    assert status["configuration"]["restart_pending"] == ["storage.root"]


def test_not_ready_is_exit_status_3_with_the_reason(start_daemon: StartDaemon, runtime_dir: str) -> None:
    daemon = start_daemon(dicomd={"runtime_dir": runtime_dir})
    subprocess.run(
        [sys.executable, "-m", "dicomd", "maintenance", "on", "--config", str(daemon.config_path)],
        check=True,
        timeout=40,
    )
    done = ask(daemon)
    assert done.returncode == 3
    assert "not accepting instances: dicomd is in maintenance" in done.stdout
    assert "in maintenance" in daemon.get("/")[1]


def test_without_a_daemon_it_says_so(tmp_path: Path, runtime_dir: str) -> None:
    config = tmp_path / "dicomd.toml"
    config.write_text(f'[dicomd]\nruntime_dir = "{runtime_dir}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "dicomd", "status", "--config", str(config)],
        capture_output=True, text=True, check=False, timeout=40,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no daemon answers" in done.stderr


def test_a_killed_worker_s_associations_go_and_counts_stay(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 1})
    peer = connect(daemon)
    peer.associate()
    peer.store(instance())
    wait_status(daemon, lambda status: status["counters"]["instances"] == 1)  # counted after the answer
    (pid,) = daemon.worker_pids()
    os.kill(pid, signal.SIGKILL)
    status = wait_status(daemon, lambda status: status["ready"] and pid not in {w["pid"] for w in status["workers"]})
    assert status["associations"]["listed"] == []
    assert status["counters"]["instances"] == 1
    again = connect(daemon)
    again.associate()
    again.store(instance())
    again.release()
    wait_status(daemon, lambda status: status["counters"]["instances"] == 2)


def test_a_peer_s_last_store_survives_a_restart_and_a_crash(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon()
    labels = frozenset({("peer", "unknown")})
    assert ("dicomd_peer_last_store_timestamp_seconds", labels) not in daemon.metrics(), "present before it is known"
    peer = connect(daemon)
    peer.associate()
    peer.store(instance())
    peer.release()
    seconds = daemon.metric("dicomd_peer_last_store_timestamp_seconds", peer="unknown")
    daemon.stop()
    daemon.start()
    assert daemon.metric("dicomd_peer_last_store_timestamp_seconds", peer="unknown") == pytest.approx(
        seconds, abs=0.001
    )
    note = daemon.root / ".dicomd" / "peers" / "unknown.peer"
    again = connect(daemon)
    again.associate()
    again.store(instance())
    wait_until(lambda: note.stat().st_mtime, WAIT, until=lambda seen: seen > seconds + 0.001)
    daemon.kill()
    daemon.start()
    assert daemon.metric("dicomd_peer_last_store_timestamp_seconds", peer="unknown") > seconds
    (told,) = daemon.status()["peers"]
    assert told["last_store"]


@pytest.mark.system
@pytest.mark.timeout(120)
def test_a_browser_shows_the_page(start_daemon: StartDaemon, connect: Connect, tmp_path: Path) -> None:
    """Markup that a stranger has put into an AE Title is shown as text."""
    chromium = senders.program("chromium")
    daemon = start_daemon(dicomd={"ae_titles": ["DICOMD"]})
    peer = connect(daemon, calling="<i id=evil>CT1")
    peer.associate()
    assert peer.store(instance(size=5000)).status == 0
    rejected = connect(daemon)
    rejected.send(associate_rq(called="<b id=x>", calling="RIS"))
    rejected.read_rejection()
    rejected.sock.close()
    wait_status(daemon, lambda status: status["refusals"])
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'chromium'}"]
    url = "http://{}:{}/".format(*daemon.http)
    done = subprocess.run(
        [chromium, *options, "--virtual-time-budget=1000", "--dump-dom", url],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dom = done.stdout
    assert re.search(r'<p class="pill good" id="state">accepting instances</p>', dom)
    assert "&lt;i id=evil&gt;CT1" in dom
    assert not re.search(r"<(i|b)\b[^>]*\bid=", dom)
    for section in ("open-associations", "last-refusals", "last-stores-by-peer", "store", "configuration", "workers"):
        assert f'<section id="{section}">' in dom
    peer.release()
