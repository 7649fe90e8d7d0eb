"""Package operations on a running service: an upgrade with an open Association, removal, purge."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.debian import Machine
from tests.support.objects import instance
from tests.support.raw_peer import associate_rq, store_message
from tests.support.service import Service, wait_until

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

NEWER = "99:0.1.0-1"
A_ASSOCIATE_AC = 2
STORE = "/var/lib/dicomd/store"


@pytest.fixture
def newer(package: Path, tmp_path: Path) -> Path:
    """The package with only its version changed to a later one."""
    folder, made = tmp_path / "content", tmp_path / "dicomd_newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder], check=True)
    control = folder / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {NEWER}", control.read_text()))
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", "-z1", folder, made], check=True, capture_output=True)
    return made


def as_before_the_readers_had_a_group(machine: Machine) -> None:
    """Make the store as it was left by a version without dicomd-read."""
    machine.run("chgrp", "-R", "dicomd", STORE)
    machine.run("chmod", "-R", "g-s", STORE)
    machine.run("chmod", "0750", f"{STORE}/.dicomd")
    machine.run("groupdel", "dicomd-read")


def assert_readers_have_a_group(machine: Machine) -> None:
    """Assert that everything stored since the upgrade belongs to the readers' group."""
    modes = machine.run("stat", "--format=%a %G", STORE, f"{STORE}/.dicomd", f"{STORE}/.dicomd/tmp").stdout.splitlines()
    assert modes == ["2750 dicomd-read", "2700 dicomd-read", "2750 dicomd-read"]
    groups = machine.run("find", STORE, "-name", "*.dcm", "-printf", "%g\\n").stdout.split()
    assert sorted(groups) == ["dicomd", "dicomd-read", "dicomd-read"]  # the first was begun before


def test_upgrade_removal_and_purge(boot: Callable[[], Machine], package: Path, newer: Path) -> None:
    machine = boot()
    machine.install(package)
    service = Service(machine)
    for unit in ("dicomd.service", "dicomd.socket", "dicomd-metrics.socket"):  # started by the installation
        assert machine.properties(unit, "ActiveState") == {"ActiveState": "active"}
    assert machine.properties("dicomd-tls.socket", "ActiveState") == {"ActiveState": "inactive"}
    service.start_afresh()
    service.configure("[limits]\nassociations = 40\n")

    as_before_the_readers_had_a_group(machine)
    old = service.main_pid
    unfinished = store_message(instance(size=200_000))
    with service.peer() as open_one:
        open_one.associate()
        open_one.send(unfinished[:50_000])
        upgrade = subprocess.Popen(
            machine.install_command(newer), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(lambda: service.show("ActiveState") == "deactivating" or upgrade.poll() is not None)
        assert upgrade.poll() is None
        with service.peer() as waiting:  # no daemon accepts it yet
            waiting.send(associate_rq())
            open_one.send(unfinished[50_000:])
            assert open_one.read_message().status == 0
            assert open_one.store(instance()).status == 0
            open_one.release()
            output, _ = upgrade.communicate(timeout=300)
            assert upgrade.returncode == 0, output
            assert waiting.read_pdu(60).type == A_ASSOCIATE_AC
            assert waiting.store(instance()).status == 0
            waiting.release()
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "dicomd").stdout == NEWER
    assert service.main_pid not in ("0", old)
    assert (
        service.get("/metrics")[1].count("dicomd_associations_limit 40.0") == 1
    )  # the administrator's own file was kept
    stored = {path: path.read_bytes() for path in service.paths()}
    assert len(stored) == 3
    assert_readers_have_a_group(machine)

    machine.apt("remove", "dicomd")
    for unit in ("dicomd.service", "dicomd.socket", "dicomd-metrics.socket"):
        assert machine.properties(unit, "ActiveState") == {"ActiveState": "inactive"}
    assert {path: path.read_bytes() for path in service.paths()} == stored
    assert service.config_path.exists()

    machine.apt("purge", "dicomd")
    assert {path: path.read_bytes() for path in service.paths()} == stored
    assert not service.config_path.exists()
    assert machine.run("stat", "--format=%U", f"/{service.paths()[0].relative_to(machine.tree)}").stdout == "dicomd\n"
