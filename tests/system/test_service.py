"""The service as an administrator runs it: the package in a real Debian with systemd, and senders that never stop."""

from __future__ import annotations

import re

import pytest

from tests.support.load import Load
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, MR_IMAGE_STORAGE, instance
from tests.support.raw_peer import RawPeer, store_message
from tests.support.service import UNIT, Service, wait_until

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

CT_SMALL = "/usr/lib/dicomd/lib/python3*/site-packages/pydicom/data/test_files/CT_small.dcm"
BOTH = ((CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (MR_IMAGE_STORAGE, [EXPLICIT_LITTLE]))
ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED = 0, 3
INSTANCE_STORED = "MESSAGE_ID=b2f4d30132e747a78993ad35c073b0fd"
WORKER_DIED = "MESSAGE_ID=863a0f8680604a8a8130eb2bd1444736"
SOCKETS = ("dicomd.socket", "dicomd-metrics.socket")
MOST_EXPOSED = 0.4
REAL = ("/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var")
"""Folders whose files outlive the machine's boot."""


def mounts(service: Service, pid: int | str) -> list[str]:
    """The mounts that a process of the machine sees."""
    return service.machine.run("cat", f"/proc/{pid}/mountinfo").stdout.splitlines()


def results(peer: RawPeer) -> list[int]:
    """The results of an Association's Presentation Contexts."""
    return [peer.contexts[context_id].result for context_id in (1, 3)]


def wait_for_more(load: Load, count: int = 20) -> None:
    """Wait until `count` more instances have been acknowledged."""
    target = len(load.acknowledged) + count
    wait_until(lambda: len(load.acknowledged), until=lambda count: count >= target)


def assert_nothing_lost_nor_refused(load: Load) -> None:
    """Every acknowledged instance is stored, and no connection was refused, whatever happened to its Association."""
    assert load.lost() == []
    assert [failure for failure in load.failures if "refused" in failure.lower()] == []


def test_a_real_sender_stores(service: Service) -> None:
    done = service.machine.run("sh", "-ec", f"storescu 127.0.0.1 11112 {CT_SMALL}", check=False)
    assert done.returncode == 0, done.stderr
    (stored,) = service.stored()
    assert stored.text(0x00020016) == "STORESCU"
    (entry,) = service.wait_journal("DICOM_CALLING_AET=STORESCU", INSTANCE_STORED)
    assert entry["DICOM_STATUS"] == "0000"
    assert entry["DICOM_SOP_INSTANCE_UID"] == stored.sop_instance_uid


def test_the_pages_are_served(service: Service) -> None:
    for path in ("/-/healthy", "/-/ready", "/metrics", "/status"):
        assert service.get(path)[0] == 200, path


def test_systemd_finds_the_service_hardly_exposed(service: Service) -> None:
    text = service.machine.run("systemd-analyze", "security", UNIT, "--no-pager").stdout
    found = re.search(r"Overall exposure level for dicomd.service: ([0-9.]+)", text)
    assert found, text
    assert float(found[1]) <= MOST_EXPOSED


def test_what_runs_has_no_network_no_capability_and_no_other_files(service: Service) -> None:
    """Checked on the processes themselves, as limits on a worker that an attacker has taken over."""
    run = service.machine.run
    for pid in (service.main_pid, *service.workers()):
        status = dict(line.split(":\t", 1) for line in run("cat", f"/proc/{pid}/status").stdout.splitlines())
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0, capabilities
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"  # system calls are filtered
        interfaces = run("cat", f"/proc/{pid}/net/dev").stdout.splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in interfaces] == ["lo"]
        mounted = {line.split()[4]: line.split()[5].split(",") for line in mounts(service, pid)}
        assert "ro" in mounted["/"]
        assert {point for point, options in mounted.items() if "rw" in options and point.startswith(REAL)} == {
            "/etc/dicomd",  # where file permissions prevent writing, see below
            "/var/lib/dicomd",
            "/var/tmp",  # private and empty
        }
    as_dicomd = ("setpriv", "--reuid=dicomd", "--regid=dicomd", "--clear-groups")
    for path in ("/etc/dicomd", "/etc/dicomd/dicomd.toml"):
        assert run(*as_dicomd, "test", "-r", path, check=False).returncode == 0
        assert run(*as_dicomd, "test", "-w", path, check=False).returncode == 1


def test_systemd_has_nothing_to_say_of_the_units(service: Service) -> None:
    done = service.machine.run("systemd-analyze", "verify", UNIT, *SOCKETS, "dicomd-tls.socket")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_reload_leaves_the_open_association_its_contexts(service: Service) -> None:
    with service.load(senders=2) as load, service.peer() as old:
        wait_for_more(load)
        old.associate(BOTH)
        assert results(old) == [ACCEPTED, ACCEPTED]
        unfinished = store_message(instance(sop_class_uid=MR_IMAGE_STORAGE, size=200_000), context_id=3)
        old.send(unfinished[:50_000])
        service.configure('[contexts]\nsop_classes = ["CTImageStorage"]\n')
        service.systemctl("reload")
        with service.peer() as new:
            new.associate(BOTH)
            assert results(new) == [ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED]
            assert new.store(instance()).status == 0
            new.release()
        old.send(unfinished[50_000:])
        assert old.read_message().status == 0
        assert old.store(instance(sop_class_uid=MR_IMAGE_STORAGE), context_id=3).status == 0
        old.release()
        wait_for_more(load)
    assert load.failures == []
    assert load.lost() == []
    assert len(service.stored()) == len(load.acknowledged) + 3


def test_a_reload_with_a_broken_file_fails_and_changes_nothing(service: Service) -> None:
    workers = service.workers()
    service.configure("[limits]\nassociations = 0\n")
    done = service.systemctl("reload", check=False)
    assert done.returncode != 0
    assert "failed" in done.stderr
    wait_until(lambda: any("limits.associations" in str(entry["MESSAGE"]) for entry in service.journal()))
    assert service.show("ActiveState") == "active"
    assert service.workers() == workers
    with service.peer() as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()


def test_a_restart_refuses_no_connection_and_loses_nothing(service: Service) -> None:
    with service.load() as load:
        for _ in range(3):
            wait_for_more(load)
            before = service.main_pid
            service.systemctl("restart")
            assert service.main_pid != before
        wait_for_more(load)
    assert_nothing_lost_nor_refused(load)


def test_a_killed_worker_is_replaced(service: Service) -> None:
    workers = service.workers()
    with service.load() as load:
        wait_for_more(load)
        victim = min(workers)
        service.machine.run("kill", "-KILL", str(victim))
        wait_until(lambda: victim not in service.workers() and len(service.workers()) == len(workers))
        wait_until(lambda: set(service.workers().values()), equals={"ready"})
        wait_for_more(load)
    assert_nothing_lost_nor_refused(load)
    assert service.show("NRestarts") == "0"


def test_a_killed_supervisor_is_started_again(service: Service) -> None:
    with service.load() as load:
        for _ in range(2):
            wait_for_more(load)
            before = service.main_pid
            service.machine.run("kill", "-KILL", before)
            wait_until(lambda before=before: service.main_pid not in ("0", before) and service.ready())
        wait_for_more(load)
    assert_nothing_lost_nor_refused(load)
    assert service.show("NRestarts") == "2"


def test_a_stopped_worker_is_replaced(service: Service) -> None:
    workers = service.workers()
    victim = min(workers)
    service.machine.run("kill", "-STOP", str(victim))
    (entry,) = service.wait_journal(WORKER_DIED)
    assert entry["DICOMD_REASON"] == "stuck"
    wait_until(lambda: victim not in service.workers() and list(service.workers().values()) == ["ready"] * len(workers))
    with service.peer() as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        peer.release()


def test_the_watchdog_starts_a_stopped_supervisor_again(service: Service) -> None:
    assert service.show("WatchdogUSec") == "30s"
    service.drop_in("[Service]\nWatchdogSec=10s\n")  # the same with a shorter time
    service.systemctl("restart")
    with service.load(senders=2) as load:
        wait_for_more(load)
        before = service.main_pid
        service.machine.run("kill", "-STOP", before)
        wait_until(lambda: service.main_pid not in ("0", before) and service.ready(), 120)
        wait_for_more(load)
    assert_nothing_lost_nor_refused(load)
    assert any("Watchdog timeout" in str(entry["MESSAGE"]) for entry in service.journal())


def test_maintenance_is_switched_by_command(service: Service) -> None:
    service.machine.run("dicomd", "maintenance", "on")
    assert service.get("/-/ready")[0] == 503
    service.systemctl("reload")
    assert service.get("/-/ready")[0] == 503
    service.machine.run("dicomd", "maintenance", "off")
    assert service.ready()
