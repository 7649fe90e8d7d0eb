"""The shipped systemd units pass systemd's own checks and match what the daemon expects."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dicomd.config.schema import Config
from dicomd.supervisor import runtime_dir, sockets

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "packaging" / "systemd"
MOST_EXPOSED = 0.4


@pytest.fixture(scope="module")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    return program


def test_the_service_is_hardly_exposed(analyze: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", UNITS / "dicomd.service"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    found = re.search(r"Overall exposure level for dicomd.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_systemd_has_nothing_to_say_of_the_units(analyze: str, tmp_path: Path) -> None:
    program = tmp_path / "dicomd"
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    for unit in UNITS.glob("dicomd*.*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/dicomd", str(program)))
    units = sorted([*tmp_path.glob("*.service"), *tmp_path.glob("*.socket")])
    assert len(units) == 4
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_units_and_the_default_configuration_fit() -> None:
    (listener,) = Config().listen
    service = (UNITS / "dicomd.service").read_text()
    for name, unit in sockets.UNITS.items():
        assert f"FileDescriptorName={name}\n" in (UNITS / unit).read_text()
    assert listener.name in sockets.UNITS
    assert f"ListenStream={listener.address.port}\n" in (UNITS / "dicomd.socket").read_text()
    assert f"ListenStream={Config().http.address}\n" in (UNITS / "dicomd-metrics.socket").read_text()
    assert f"RuntimeDirectory={runtime_dir.DEFAULT.name}\n" in service
    stop = re.search(r"TimeoutStopSec=([0-9]+)s", service)
    assert stop is not None
    assert int(stop[1]) > Config().dicomd.drain_timeout + 10


def test_each_drop_in_says_where_it_belongs() -> None:
    for drop_in in (UNITS / "drop-ins").glob("*.conf"):
        assert re.match(rf"# /etc/systemd/system/dicomd\.(service|socket)\.d/{drop_in.name}", drop_in.read_text())
