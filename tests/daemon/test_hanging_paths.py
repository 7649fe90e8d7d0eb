"""A disk or a file server that gives no answer: it holds up whoever looks at it, and that is never the supervisor.

What hangs is a FIFO that nobody writes to, which no open comes back from, or a system call that strace delays.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomd.process.control import ask
from tests.daemon.conftest import TLS_LISTENER, Connect, StartDaemon
from tests.support.certificates import Pki
from tests.support.daemon import Daemon
from tests.support.objects import instance
from tests.support.raw_peer import RawPeer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PLAIN = {"name": "dicom", "address": "127.0.0.1:0"}
REJECTED_WITHIN = 60.0  # seconds; dicomd gives a path 20 and a worker 30


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """A FIFO in a file's place."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    os.mkfifo(path)
    try:
        yield
    finally:
        aside.replace(path)


def assert_goes_on(daemon: Daemon, peer: RawPeer, runtime: Path) -> None:
    """The supervisor lives, is asked and answers, and its workers serve."""
    assert daemon.get("/-/healthy")[0] == 200
    assert peer.echo().status == 0
    assert peer.store(instance()).status == 0
    assert ask(runtime, {"command": "maintenance", "on": False}, timeout=5)["ok"]


def assert_rejected(daemon: Daemon, peer: RawPeer, runtime: Path, why: str) -> None:
    """The reload that is under way fails for this reason, and until then everything goes on."""
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
