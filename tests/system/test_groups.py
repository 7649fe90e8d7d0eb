"""Groups on the machine: readers may only read instances, and operators may only operate the daemon."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support.objects import instance
from tests.support.service import Service

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

SPOOL = "/var/lib/dicomd/audit"
STORE = "/var/lib/dicomd/store"
KEY = "/etc/dicomd/tls/server.key"


class User:
    """A user of the machine who belongs to one group besides his own."""

    def __init__(self, service: Service, group: str) -> None:
        self._service, self._name = service, f"user-of-{group}"
        service.machine.run("sh", "-ec", 'id "$1" >/dev/null 2>&1 || useradd -M -G "$2" "$1"', "sh", self._name, group)

    def tries(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as this user."""
        return self._service.machine.run(
            "setpriv", f"--reuid={self._name}", f"--regid={self._name}", "--init-groups", *command, check=False
        )

    def may(self, *command: str) -> bool:
        done = self.tries(*command)
        return done.returncode == 0


def store_three(service: Service) -> list[str]:
    """Store three instances, removing folders in between, and return their paths inside the machine."""
    with service.peer() as peer:
        peer.associate()
        assert peer.store(instance()).status == 0
        service.machine.run("find", STORE, "-mindepth", "1", "-not", "-path", f"{STORE}/.dicomd*", "-delete")
        for _ in range(3):
            assert peer.store(instance()).status == 0
        peer.release()
    return [f"/{path.relative_to(service.machine.tree)}" for path in service.paths()]


def modes(service: Service, *paths: str) -> set[str]:
    return set(service.machine.run("stat", "--format=%a %U %G", *paths).stdout.splitlines())


def test_readers_read_instances_and_nothing_else(service: Service) -> None:
    service.machine.run("install", "-m", "0640", "-o", "root", "-g", "dicomd", "/etc/hostname", KEY)
    service.configure(f'[audit]\nspool = "{SPOOL}"\n')
    service.systemctl("restart")
    paths = store_three(service)
    service.systemctl("restart")  # makes systemd check the modes of StateDirectory= again
    folders = {path.rpartition("/")[0] for path in paths} | {path.rsplit("/", 2)[0] for path in paths}
    assert modes(service, *paths) == {"640 dicomd dicomd-read"}
    assert modes(service, STORE, *folders) == {"2750 dicomd dicomd-read"}
    assert modes(service, f"{STORE}/.dicomd") == {"2700 dicomd dicomd-read"}
    assert modes(service, "/var/lib/dicomd") == {"751 dicomd dicomd"}

    reader, operator = User(service, "dicomd-read"), User(service, "dicomd")
    assert reader.tries("find", STORE, "-name", "*.dcm").stdout.split() != []
    for path in paths:
        assert reader.may("cksum", path)
        assert not reader.may("rm", "-f", path)
        assert not operator.may("cksum", path)
    for path in (KEY, "/etc/dicomd/dicomd.toml", "/var/lib/dicomd/stores", f"{STORE}/.dicomd/store"):
        assert not reader.may("cksum", path), path
    for path in (SPOOL, "/var/lib/dicomd", f"{STORE}/.dicomd", f"{STORE}/.dicomd/tmp", "/run/dicomd"):
        assert not reader.may("ls", path), path
    assert not reader.may("sh", "-c", f"cat {SPOOL}/*.xml")
    assert not reader.may("touch", f"{STORE}/mine")
    for command in (("status",), ("maintenance", "on"), ("reload",)):
        done = reader.tries("env", "RUNTIME_DIRECTORY=/run/dicomd", "dicomd", *command)
        assert done.returncode == 1, done.stdout
        assert "not by this user" in done.stderr
    assert service.status()["maintenance"] is False

    stranger = User(service, "games")
    for path in (KEY, *paths, "/etc/dicomd/dicomd.toml", "/var/lib/dicomd/stores"):
        assert not stranger.may("cksum", path), path
    for path in (SPOOL, STORE, "/run/dicomd"):
        assert not stranger.may("ls", path), path
    assert stranger.tries("env", "RUNTIME_DIRECTORY=/run/dicomd", "dicomd", "maintenance", "on").returncode == 1

    assert operator.may("cksum", KEY)
    assert operator.may("sh", "-c", f"cat {SPOOL}/*.xml")
    assert json.loads(operator.tries("dicomd", "status", "--json").stdout)["ready"]
    assert operator.may("dicomd", "maintenance", "on")
    assert service.status()["maintenance"] is True
    assert operator.may("dicomd", "maintenance", "off")
