"""The interface to the service manager: LISTEN_FDS, NOTIFY_SOCKET and the watchdog (CONTRACT 3, 8)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.daemon import Daemon, DaemonFailed
from tests.support.failed_start import failed_start
from tests.support.objects import instance
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

# As systemd does it: descriptors 3, 4, … and variables with the pid of this process, which exec replaces by the daemon.
LAUNCHER = """
import os, sys
fds, names = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2]
spare = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
for index, fd in enumerate(spare):
    os.dup2(fd, 3 + index)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def listening() -> Iterator[Callable[[], socket.socket]]:
    """Open a listening socket on 127.0.0.1 that stays open during the test, as systemd's do."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_server(("127.0.0.1", 0)))


@pytest.fixture
def handed_over(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Make a daemon, without starting it, that will inherit named sockets."""
    daemons = []

    def make(sockets: Sequence[tuple[str, socket.socket]], **overrides: object) -> Daemon:
        daemon = Daemon(tmp_path, overrides)
        daemon.inherited = tuple(sock.fileno() for _, sock in sockets)
        numbers = ",".join(str(fd) for fd in daemon.inherited)
        daemon.launcher = [sys.executable, "-c", LAUNCHER, numbers, ":".join(name for name, _ in sockets)]
        daemons.append(daemon)
        return daemon

    yield make
    for daemon in daemons:
        if daemon.running:
            daemon.kill()


class ServiceManager:
    """The other end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.messages: list[dict[str, str]] = []

    def wait_for(self, assignment: str, deadline: float = 15.0) -> dict[str, str]:
        """Return the next message with that assignment."""
        ends = time.monotonic() + deadline
        key, _, value = assignment.partition("=")
        while True:
            self.sock.settimeout(max(0.01, ends - time.monotonic()))
            message = dict(line.split("=", 1) for line in self.sock.recv(4096).decode().splitlines())
            self.messages.append(message)
            if message.get(key) == value:
                return message


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ServiceManager, str]]:
    """A service manager, and the $NOTIFY_SOCKET that leads to it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@dicomd-{os.getpid()}-{time.monotonic_ns()}"
    found = ServiceManager(name.replace("@", "\0") if request.param == "abstract" else name)
    yield found, name
    found.sock.close()


def test_inherited_sockets_are_used_and_survive_the_daemon(
    handed_over: Callable[..., Daemon], listening: Callable[[], socket.socket]
) -> None:
    dicom, metrics = listening(), listening()
    daemon = handed_over([("metrics", metrics), ("dicom", dicom)])
    daemon.start()
    assert (daemon.address, daemon.http) == (dicom.getsockname(), metrics.getsockname())
    with RawPeer(daemon.address) as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()
    environment = Path(f"/proc/{daemon.pid}/environ").read_text()
    assert "LISTEN_PID" in environment  # as it was started; the next line checks that its children don't have it
    daemon.stop()
    with RawPeer(dicom.getsockname()) as waiting:  # no daemon is running, yet the connection isn't refused
        waiting.send(associate_rq())
        daemon.start()
        assert waiting.read_pdu().type == 2
        waiting.release()
    daemon.check_health()
    daemon.stop()


def test_a_broken_configuration_may_be_corrected_while_the_sockets_wait(
    handed_over: Callable[..., Daemon], listening: Callable[[], socket.socket]
) -> None:
    dicom = listening()
    daemon = handed_over([("dicom", dicom), ("metrics", listening())])
    whole = daemon.config_path.read_text()
    daemon.config_path.write_text("broken")

    def correct() -> None:
        try:
            wait_until(lambda: [line for line in list(daemon.output) if "dicomd.toml" in line], 30)
        finally:  # otherwise the daemon would never start
            daemon.config_path.write_text(whole)

    corrector = threading.Thread(target=correct)
    corrector.start()
    with RawPeer(dicom.getsockname()) as waiting:
        waiting.send(associate_rq())
        daemon.start()
        assert waiting.read_pdu().type == 2
        waiting.release()
    corrector.join()
    daemon.stop()


def test_a_broken_configuration_that_stays_so_ends_the_start(
    handed_over: Callable[..., Daemon], listening: Callable[[], socket.socket], tmp_path: Path
) -> None:
    systemd = ServiceManager(str(tmp_path / "notify"))
    daemon = handed_over([("dicom", listening())])
    daemon.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    daemon.config_path.write_text("[limits]\nassociations = 0\n")
    with contextlib.closing(systemd.sock):
        with pytest.raises(DaemonFailed, match="it ended"):
            daemon.start()
        assert daemon.wait() == 78
        systemd.wait_for("STATUS=The configuration is broken, see the log: waiting for its correction")
    assert len([line for line in daemon.output if "limits.associations" in line]) == 1


def test_a_name_may_have_several_sockets(
    handed_over: Callable[..., Daemon], listening: Callable[[], socket.socket]
) -> None:
    sockets = [listening(), listening()]
    daemon = handed_over([("dicom", sock) for sock in sockets])
    daemon.start()
    (started,) = daemon.logged("started")
    assert started["listeners"] == {"dicom": ", ".join(f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets)}
    for sock in sockets:
        with RawPeer(sock.getsockname()) as peer:
            peer.associate()
            assert peer.store(instance()).status == 0
            peer.release()
    daemon.stop()


def test_what_no_listener_is_configured_for_is_closed_with_a_warning(
    handed_over: Callable[..., Daemon], listening: Callable[[], socket.socket], tmp_path: Path
) -> None:
    dicom, other = listening(), listening()
    with (tmp_path / "file").open("w") as file, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        daemon = handed_over([("other", other), ("dicom", dicom), ("dicom", datagrams), ("file", file)])
        daemon.start()
    closed = {record["listener"]: record["detail"] for record in daemon.logged("inherited descriptor closed")}
    assert 'there is no [[listen]] named "other"' in closed["other"]
    assert closed["dicom"] == "it doesn't listen for TCP"
    assert closed["file"] == "it is not a socket"
    with RawPeer(dicom.getsockname()) as peer:
        peer.associate()
        peer.release()
    daemon.check_health()
    daemon.stop()


def test_what_is_not_inherited_is_bound(
    handed_over: Callable[..., Daemon], listening: Callable[[], socket.socket]
) -> None:
    daemon = handed_over(
        [("second", listening())],
        listen=[{"name": "first", "address": "127.0.0.1:0"}, {"name": "second", "address": "127.0.0.1:0"}],
    )
    daemon.start()
    (started,) = daemon.logged("started")
    for address in started["listeners"].values():
        host, _, port = address.rpartition(":")
        with RawPeer((host, int(port))) as peer:
            peer.associate()
            peer.release()
    daemon.stop()


def test_variables_meant_for_another_process_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.environment = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "dicom:dicom:metrics"}
    with daemon:
        assert daemon.ready()


def test_systemd_is_told_of_start_reload_and_stop(manager: tuple[ServiceManager, str], tmp_path: Path) -> None:
    systemd, address = manager
    daemon = Daemon(tmp_path, {"dicomd": {"workers": 1, "drain_timeout": "60s"}})
    daemon.environment = {"NOTIFY_SOCKET": address}
    with daemon:
        assert systemd.wait_for("READY=1")["STATUS"] == "Generation 1: 1 worker, 0 Associations open"
        before = time.monotonic_ns() // 1000
        daemon.signal(signal.SIGHUP)
        assert before <= int(systemd.wait_for("RELOADING=1")["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert systemd.wait_for("READY=1")["STATUS"].startswith("Generation 2:")
        daemon.config_path.write_text("broken")
        daemon.signal(signal.SIGHUP)
        systemd.wait_for("RELOADING=1")
        assert systemd.wait_for("READY=1")["STATUS"].startswith("Configuration rejected, generation 2:")
        with RawPeer(daemon.address) as peer:
            peer.associate()
            daemon.signal(signal.SIGTERM)
            systemd.wait_for("STOPPING=1")
            systemd.wait_for("EXTEND_TIMEOUT_USEC=15000000")
            assert "STOPPING" in systemd.messages[-2]  # at once, however short TimeoutStopSec= is
            systemd.wait_for("STATUS=Stopping, 1 Associations still open")
            systemd.wait_for("EXTEND_TIMEOUT_USEC=15000000")  # repeatedly
            peer.release()
        assert daemon.wait() == 0
    assert not any("WATCHDOG" in message for message in systemd.messages)


def test_the_watchdog_is_fed_until_the_supervisor_stands_still(tmp_path: Path) -> None:
    systemd = ServiceManager(str(tmp_path / "notify"))
    daemon = Daemon(tmp_path, {"dicomd": {"workers": 1}})
    daemon.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
    with contextlib.closing(systemd.sock), daemon:
        for _ in range(3):
            systemd.wait_for("WATCHDOG=1", deadline=4.0)
        daemon.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.pid, os.WSTOPPED)
        systemd.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                systemd.sock.recv(4096)
        with pytest.raises(TimeoutError):
            systemd.wait_for("WATCHDOG=1", deadline=4.0)
        daemon.signal(signal.SIGCONT)
        systemd.wait_for("WATCHDOG=1", deadline=4.0)
        daemon.stop()
    assert daemon.logged("worker died") == []


def test_a_supervisor_that_stood_still_takes_nobody_for_stuck(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"workers": 2})
    peer = connect(daemon)
    peer.associate()
    daemon.signal(signal.SIGSTOP)
    try:

        def healthy_while_storing() -> int:
            assert peer.store(instance()).status == 0  # no worker depends on it
            return daemon.get("/-/healthy")[0]

        wait_until(  # after 10 s
            healthy_while_storing,
            15,
            until=lambda status: status != 200,
            what="a stopped supervisor is still reported healthy",
            pause=0.2,
        )
    finally:
        daemon.signal(signal.SIGCONT)
    assert peer.store(instance()).status == 0
    peer.release()
    wait_until(lambda: daemon.get("/-/healthy")[0], 10, equals=200)
    assert daemon.logged("worker died") == []


@pytest.mark.parametrize(
    ("table", "key", "named"),
    [
        ("storage", "root", "link -> {folder}/not/mounted. Mount its file system, or make the folder"),
        ("dicomd", "runtime_dir", "File exists (EEXIST): {folder}/link"),
    ],
)
def test_a_folder_that_can_not_be_used_is_explained(tmp_path: Path, table: str, key: str, named: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "not" / "mounted")
    daemon = Daemon(tmp_path, {table: {key: str(link)}})
    done = failed_start(daemon.config_path)
    assert done.returncode == 1
    assert f"{table}.{key}: {link} can't be used: " in done.stderr
    assert named.format(folder=tmp_path) in done.stderr
    assert not (tmp_path / "not").exists()


def test_a_listener_that_may_not_be_bound_names_the_unit_to_enable(tmp_path: Path) -> None:
    """As under RestrictAddressFamilies=AF_UNIX."""
    daemon = Daemon(tmp_path, {"listen": [{"name": "dicom-tls", "address": "127.0.0.1:0"}]})
    forbidden = (
        "import errno, socket\n"
        "def forbid(*_, **__): raise OSError(errno.EAFNOSUPPORT, 'no')\n"
        "socket.create_server = forbid"
    )
    done = failed_start(daemon.config_path, sabotage=forbidden)
    assert done.returncode == 1
    assert "listen.dicom-tls: can't listen on 127.0.0.1:0" in done.stderr
    assert "enable dicomd-tls.socket" in done.stderr
