"""systemd's sockets and time limits: after failed starts, during a drain, and with the drop-ins."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.objects import instance
from tests.support.raw_peer import RawPeer
from tests.support.service import UNIT, Service, wait_until
from tests.system.test_service import SOCKETS, assert_nothing_lost_nor_refused, wait_for_more

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]


START_LIMIT_INTERVAL = 31.0
"""Seconds: one more than in the shipped unit."""
MANY = 50
"""Starts: ten times as many as systemd allows a socket in ten seconds by default."""


def listener(name: str, address: str) -> str:
    """A [[listen]] table."""
    return f'[[listen]]\nname = "{name}"\naddress = "{address}"\n'


def test_a_corrected_configuration_needs_one_start_whatever_senders_did_meanwhile(service: Service) -> None:
    whole = service.config_path.read_text()
    with service.load(senders=2) as load:
        wait_for_more(load)
        service.configure("[limits]\nassociations = 0\n")
        assert service.systemctl("restart", check=False).returncode != 0
        # a sender that waits in the socket makes systemd start it once more
        wait_until(
            lambda: len([e for e in service.journal() if "limits.associations" in str(e["MESSAGE"])]),
            until=lambda count: count >= 2,
        )
        service.configure(whole)
        service.systemctl("start")
        wait_for_more(load)
    for unit in SOCKETS:
        assert service.machine.properties(unit, "ActiveState") == {"ActiveState": "active"}
    assert service.get("/-/ready")[0] == 200
    assert_nothing_lost_nor_refused(load)


class AllSockets:
    """The service with all its socket units, including the one for TLS (which needs no TLS here)."""

    units = (*SOCKETS, "dicomd-tls.socket")
    whole = listener("dicom", "0.0.0.0:11112") + listener("dicom-tls", "0.0.0.0:2762")
    """A configuration for these sockets."""
    without_socket = listener("nobody", "0.0.0.0:4000")
    """A configuration with which the service can't start."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def states(self) -> set[str]:
        """The states of the sockets according to systemd."""
        return {self._service.machine.properties(unit, "ActiveState")["ActiveState"] for unit in self.units}

    def failed_starts(self) -> int:
        """How often the service failed to start because the configuration had a listener without a socket."""
        reason = "enable a socket unit with FileDescriptorName=nobody"
        return sum(1 for entry in self._service.journal() if reason in str(entry["MESSAGE"]))

    def assert_served(self) -> None:
        """Assert that each socket listens, and that instances sent to it are stored."""
        assert self.states() == {"active"}
        for port in (11112, 2762):
            with self._service.machine.network(), RawPeer(("127.0.0.1", port)) as peer:
                peer.associate()
                assert peer.store(instance()).status == 0
                peer.release()
        assert self._service.get("/-/ready")[0] == 200


@pytest.fixture
def all_sockets(service: Service) -> Iterator[AllSockets]:
    """The running service with all its sockets."""
    sockets = AllSockets(service)
    service.configure(sockets.whole)
    service.machine.run("systemctl", "enable", "dicomd-tls.socket")
    try:
        service.systemctl("restart")
        assert sockets.states() == {"active"}
        yield sockets
    finally:
        service.machine.run("systemctl", "disable", "--now", "dicomd-tls.socket")


def test_a_start_brings_every_socket_back_after_systemd_has_given_up(service: Service, all_sockets: AllSockets) -> None:
    service.configure(all_sockets.without_socket)
    assert service.systemctl("restart", check=False).returncode != 0
    wait_until(all_sockets.states, 120, equals={"failed"})
    assert all_sockets.failed_starts()
    given_up = time.monotonic()
    service.configure(all_sockets.whole)
    # StartLimitIntervalSec= has to pass
    wait_until(lambda: time.monotonic() - given_up > START_LIMIT_INTERVAL, 60)
    service.systemctl("start")
    all_sockets.assert_served()


def test_starts_in_a_loop_keep_no_socket_down(service: Service, all_sockets: AllSockets) -> None:
    """A tool starts the service ten times a second until it runs, while senders try; then the file is corrected."""
    loop = "failed=0; until systemctl start dicomd; do failed=$((failed + 1)); sleep 0.1; done; echo $failed"
    with service.load(senders=2) as load:
        wait_for_more(load)
        service.configure(all_sockets.without_socket)
        service.systemctl("stop")
        with subprocess.Popen(
            service.machine.command("timeout", "100", "sh", "-c", loop),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as tool:
            wait_until(all_sockets.states, 60, equals={"failed"})
            wait_until(lambda: any("repeated too quickly" in str(entry["MESSAGE"]) for entry in service.journal()))
            failed_starts = all_sockets.failed_starts()
            service.configure(all_sockets.whole)
            failed_in_the_loop, _ = tool.communicate()
        assert tool.returncode == 0
        assert int(failed_in_the_loop) > MANY
        assert all_sockets.failed_starts() == failed_starts  # the first start after the correction succeeded
        all_sockets.assert_served()
        wait_for_more(load)
    assert load.lost() == []


def test_a_long_drain_asks_systemd_for_time(service: Service) -> None:
    service.configure('[dicomd]\ndrain_timeout = "120s"\n')
    service.drop_in("[Service]\nTimeoutStopSec=3s\n")
    service.systemctl("restart")
    with service.peer() as peer:
        peer.associate()
        with subprocess.Popen(service.machine.command("systemctl", "stop", UNIT)) as stop:
            wait_until(lambda: service.show("ActiveState"), equals="deactivating")
            over = time.monotonic() + 10  # seconds: three times as long as the unit allows
            while time.monotonic() < over:
                assert peer.store(instance()).status == 0
                time.sleep(0.5)
            assert stop.poll() is None
            peer.release()
        assert stop.returncode == 0
    assert service.show("Result") == "success"


def test_the_documented_drop_ins_do_what_they_say(service: Service) -> None:
    examples = service.machine.tree / "usr/share/doc/dicomd/examples"
    service.drop_in((examples / "port-104.conf").read_text(), "dicomd.socket")
    service.drop_in((examples / "store-path.conf").read_text())
    service.machine.run("install", "-d", "-o", "dicomd", "-g", "dicomd-read", "-m", "2750", "/srv/dicom")
    service.configure('[storage]\nroot = "/srv/dicom"\n')
    service.machine.run("systemctl", "stop", "dicomd.socket", UNIT)
    service.systemctl("start")
    for port in (104, 11112):
        with service.machine.network(), RawPeer(("127.0.0.1", port)) as peer:
            peer.associate()
            assert peer.store(instance()).status == 0
            peer.release()
    assert len(list((service.machine.tree / "srv/dicom").rglob("*.dcm"))) == 2
    assert service.stored() == []

    service.drop_in((examples / "network.conf").read_text())
    service.configure(listener("own", "127.0.0.1:4000"))
    service.systemctl("restart")
    with service.machine.network(), RawPeer(("127.0.0.1", 4000)) as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()
