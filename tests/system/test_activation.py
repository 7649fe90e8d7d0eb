"""The sockets that systemd holds and the time that it gives: after a failure, in a drain, and by the drop-ins."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.support.objects import instance
from tests.support.raw_peer import RawPeer
from tests.support.service import UNIT, Service, wait_until
from tests.system.test_service import SOCKETS, assert_nothing_lost_nor_refused, wait_for_more

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]


START_LIMIT_INTERVAL = 31.0
"""Seconds, one more than the shipped unit has."""


def listener(name: str, address: str) -> str:
    """A [[listen]]."""
    return f'[[listen]]\nname = "{name}"\naddress = "{address}"\n'


def test_a_corrected_configuration_needs_one_start_whatever_senders_did_meanwhile(service: Service) -> None:
    whole = service.config_path.read_text()
    with service.load(senders=2) as load:
        wait_for_more(load)
        service.configure("[limits]\nassociations = 0\n")
        assert service.systemctl("restart", check=False).returncode != 0
        # a sender that waits in the socket has it started once more
        wait_until(lambda: len([e for e in service.journal() if "limits.associations" in str(e["MESSAGE"])]) >= 2)
        service.configure(whole)
        service.systemctl("start")
        wait_for_more(load)
    for unit in SOCKETS:
        assert service.machine.properties(unit, "ActiveState") == {"ActiveState": "active"}
    assert service.get("/-/ready")[0] == 200
    assert_nothing_lost_nor_refused(load)


def test_a_start_brings_every_socket_back_after_systemd_has_given_up(service: Service) -> None:
    both = listener("dicom", "0.0.0.0:11112") + listener("dicom-tls", "0.0.0.0:2762")
    service.configure(both)
    service.machine.run("systemctl", "enable", "dicomd-tls.socket")
    try:
        service.systemctl("restart")
        assert service.machine.properties("dicomd-tls.socket", "ActiveState") == {"ActiveState": "active"}
        service.configure(listener("nobody", "0.0.0.0:4000"))
        assert service.systemctl("restart", check=False).returncode != 0
        all_sockets = (*SOCKETS, "dicomd-tls.socket")

        def states() -> set[str]:
            return {service.machine.properties(unit, "ActiveState")["ActiveState"] for unit in all_sockets}

        wait_until(lambda: states() == {"failed"}, 120)
        assert any(
            "enable a socket unit with FileDescriptorName=nobody" in str(e["MESSAGE"]) for e in service.journal()
        )
        given_up = time.monotonic()
        service.configure(both)
        # StartLimitIntervalSec= has to pass; each start before that is one of the few that the sockets have, too
        wait_until(lambda: time.monotonic() - given_up > START_LIMIT_INTERVAL, 60)
        service.systemctl("start")
        assert states() == {"active"}
        for port in (11112, 2762):
            with service.machine.network(), RawPeer(("127.0.0.1", port)) as peer:
                peer.associate()
                assert peer.store(instance()).status == 0
                peer.release()
    finally:
        service.machine.run("systemctl", "disable", "--now", "dicomd-tls.socket")


def test_a_long_drain_asks_systemd_for_time(service: Service) -> None:
    service.configure('[dicomd]\ndrain_timeout = "120s"\n')
    service.drop_in("[Service]\nTimeoutStopSec=3s\n")
    service.systemctl("restart")
    with service.peer() as peer:
        peer.associate()
        with subprocess.Popen(service.machine.command("systemctl", "stop", UNIT)) as stop:
            wait_until(lambda: service.show("ActiveState") == "deactivating")
            over = time.monotonic() + 10  # seconds, three times what the unit allows
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
    service.machine.run("install", "-d", "-o", "dicomd", "-g", "dicomd", "-m", "0750", "/srv/dicom")
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
