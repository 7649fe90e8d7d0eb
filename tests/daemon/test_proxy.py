"""Behind a load balancer: access is decided by the address in its header, and only balancers may send a header."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.conftest import StartDaemon
from tests.support import senders
from tests.support.certificates import Authority, requestor_context
from tests.support.daemon import Daemon, free_port
from tests.support.objects import instance
from tests.support.proxy import LOCAL, TCP6, header, ipv4, ipv6
from tests.support.raw_peer import RawPeer, associate_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

Dial = Callable[..., RawPeer]

CT1 = {"name": "ct1", "ae_titles": ["CT1"], "addresses": ["10.1.2.0/24", "2001:db8::/32"]}
HERE = {"name": "here", "ae_titles": ["HERE"], "addresses": ["127.0.0.77"]}
LISTENERS = [
    {"name": "balanced", "address": "127.0.0.1:0", "proxy_protocol": ["127.0.0.1", "127.0.9.0/24"]},
    {"name": "dicom", "address": "127.0.0.1:0"},
]


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(listen=LISTENERS, peers=[CT1, HERE])


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connect from a loopback address and send some bytes at once."""
    with ExitStack() as peers:

        def connect(daemon: Daemon, first: bytes = b"", source: str = "127.0.0.1") -> RawPeer:
            peer = peers.enter_context(RawPeer(daemon.address, source=source, calling="CT1"))
            peer.send(first)
            return peer

        yield connect


def ended(peer: RawPeer) -> None:
    """The connection ends without an answer, or is reset if the acceptor has left bytes unread."""
    assert peer.read_to_the_end() == []


@pytest.mark.parametrize(
    ("first", "address"),
    [
        (header(ipv4("10.1.2.3")), "10.1.2.3"),
        (header(ipv6("2001:db8::7"), family=TCP6), "2001:db8::7"),
        (header(ipv6("::ffff:10.1.2.9") + b"\x03\0\4\0\0\0\0", family=TCP6), "10.1.2.9"),
    ],
)
def test_the_peer_is_whom_the_balancer_names(daemon: Daemon, dial: Dial, first: bytes, address: str) -> None:
    peer = dial(daemon, first, "127.0.9.5")
    peer.associate()
    assert peer.store(instance()).status == 0
    peer.release()
    line = daemon.wait_logged("association ended", dicom_peer="ct1")
    assert (line["dicom_peer_address"], line["balancer"], line["listener"]) == (address, "127.0.9.5", "balanced")


def test_the_rules_hold_for_the_address_inside(daemon: Daemon, dial: Dial) -> None:
    """Even if the balancer's own address would be allowed."""
    ended(dial(daemon, header(ipv4("10.9.9.9")) + associate_rq(calling="CT1")))
    line = daemon.wait_logged("connection refused", dicom_peer_address="10.9.9.9")
    assert (line["rule"], line["balancer"]) == ("peers.addresses", "127.0.0.1")
    peer = dial(daemon, header(ipv4("127.0.0.77")))
    peer.send(associate_rq(calling="CT1"))
    assert peer.read_rejection() == (1, 1, 3)
    daemon.wait_metric("dicomd_access_refusals_total", 1, rule="peers.addresses", mode="enforce")


def test_only_balancers_may_say_who_somebody_is(daemon: Daemon, dial: Dial) -> None:
    with pytest.raises((ConnectionError, AssertionError)):  # reset before or after the bytes have been written
        dial(daemon, header(ipv4("10.1.2.3")), "127.0.0.2").associate()
    line = daemon.wait_logged("connection refused", dicom_peer_address="127.0.0.2")
    assert line["rule"] == "listen.proxy_protocol"
    for first in (associate_rq(calling="CT1"), b"PROXY TCP4 10.1.2.3 10.1.2.4 5 6\r\n", header(b"", family=0)):
        ended(dial(daemon, first))
    daemon.wait_metric("dicomd_access_refusals_total", 4, rule="listen.proxy_protocol", mode="enforce")
    assert daemon.metric("dicomd_access_refusals_total", rule="listen.proxy_protocol", mode="audit") == 0


def test_a_balancer_that_looks_whether_anybody_is_there_is_no_alarm(daemon: Daemon, dial: Dial) -> None:
    for first in (b"", header(b"", command=LOCAL, family=0)):
        peer = dial(daemon, first)
        peer.sock.close()
    wait_until(lambda: len(daemon.logged("connection without association")), equals=2)
    assert daemon.logged("connection refused") == []
    peer = dial(daemon, header(b"", command=LOCAL, family=0))
    peer.send(associate_rq(calling="CT1"))
    assert peer.read_rejection() == (1, 1, 3)  # judged by the balancer's own address
    assert daemon.wait_logged("association rejected")["dicom_peer_address"] == "127.0.0.1"


def test_a_header_has_its_time_and_the_header_comes_before_tls(
    start_daemon: StartDaemon, dial: Dial, tmp_path: Path
) -> None:
    root = Authority()
    root.write(tmp_path / "root.pem")
    certificate, key = root.issue("dicomd", ["dicomd.test"]).write(tmp_path, "server")
    daemon = start_daemon(
        listen=[LISTENERS[0] | {"tls": True}],
        tls={"certificate": str(certificate), "key": str(key)},
        peers=[CT1],
        limits={"request_timeout": "3s"},
    )
    peer = dial(daemon, header(ipv4("10.1.2.3")))
    peer.sock = requestor_context(tmp_path / "root.pem").wrap_socket(peer.sock, server_hostname="dicomd.test")
    peer.associate()
    assert peer.store(instance()).status == 0
    peer.release()
    line = daemon.wait_logged("association ended", dicom_peer="ct1")
    assert (line["dicom_peer_address"], line["balancer"]) == ("10.1.2.3", "127.0.0.1")
    with pytest.raises(OSError):  # noqa: PT011 - however its handshake ends, it is not served
        requestor_context(tmp_path / "root.pem").wrap_socket(
            dial(daemon, header(ipv4("10.9.9.9"))).sock, server_hostname="dicomd.test"
        )
    assert daemon.wait_logged("connection refused", dicom_peer_address="10.9.9.9")["rule"] == "peers.addresses"
    assert daemon.metric("dicomd_tls_handshakes_total", listener="balanced", result="ok") == 1
    silent, cut_off = dial(daemon), dial(daemon, header(ipv4("10.1.2.3"))[:-1])
    ended(silent)
    ended(cut_off)
    assert "PROXY header" in daemon.wait_logged("connection without association", outcome="timed_out")["error"]
    daemon.wait_metric("dicomd_limit_hits_total", 2, limit="proxy_header")


@pytest.mark.system
def test_behind_haproxy(daemon: Daemon, tmp_path: Path) -> None:
    program = senders.program("haproxy")
    port = free_port()
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(
        "defaults\n mode tcp\n timeout connect 20s\n timeout client 1h\n timeout server 1h\n"
        f"frontend dicom\n bind 127.0.0.1:{port}\n default_backend dicomd\n"
        f"backend dicomd\n server one 127.0.0.1:{daemon.port} send-proxy-v2 check check-send-proxy inter 500ms\n"
    )
    with (tmp_path / "haproxy.log").open("wb") as log:
        running = subprocess.Popen([program, "-db", "-f", configuration], stdout=log, stderr=log)
    try:

        def connected() -> RawPeer | None:
            assert running.poll() is None, (tmp_path / "haproxy.log").read_text()
            with contextlib.suppress(ConnectionRefusedError):
                return RawPeer(("127.0.0.1", port), source="127.0.0.77", calling="HERE")
            return None

        with wait_until(connected, what="haproxy does not listen") as peer:
            peer.associate()
            for _ in range(5):
                assert peer.store(instance(size=300_000)).status == 0
            peer.release()
        line = daemon.wait_logged("association ended", dicom_peer="here")
        assert (line["dicom_peer_address"], line["balancer"]) == ("127.0.0.77", "127.0.0.1")
        with RawPeer(("127.0.0.1", port), source="127.0.0.78", calling="HERE") as stranger:
            ended(stranger)
        daemon.wait_logged("connection refused", dicom_peer_address="127.0.0.78")
        daemon.wait_logged("connection without association", dicom_peer_address="127.0.0.1")  # a health check
    finally:
        running.terminate()
        running.wait(20)
