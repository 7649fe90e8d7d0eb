"""Fixtures: the package for this machine's Debian release, built once, and trees and booted machines with it installed.

A test of the installed service uses the fixture ``service``: dicomd as run by systemd, with its own default
configuration and an empty store. The fixture boots a machine, which takes time, so a module that uses it has
``pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.debian import ROOT, Machine, Tree, remove_tree, script
from tests.support.service import Service


@pytest.fixture(scope="session")
def suite() -> str:
    """The name of this machine's Debian release, or DICOMD_TEST_SUITE."""
    name = os.environ.get("DICOMD_TEST_SUITE") or platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if name not in {"bookworm", "trixie"}:
        pytest.skip(f"packages can be built for Debian 12 and 13, and this is {name or 'neither'}")
    if shutil.which("debootstrap", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip("debootstrap is not installed")
    return name


@pytest.fixture(scope="session")
def package(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package from DICOMD_TEST_PACKAGE, or a new one; building fails on errors or warnings from lintian."""
    if given := os.environ.get("DICOMD_TEST_PACKAGE"):
        return Path(given)
    folder = tmp_path_factory.mktemp("package")
    done = subprocess.run(
        [ROOT / "scripts" / "build-deb", suite, folder],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    (made,) = folder.glob("*.deb")
    assert done.stdout.split() == [str(made)]
    return made


@pytest.fixture(scope="session")
def make_tree(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Make a fresh Debian tree that can be booted, without the package."""
    with ExitStack() as stack:

        def make() -> Path:
            path = tmp_path_factory.mktemp("tree") / "root"
            stack.callback(remove_tree, path)
            script('exec cp -a --reflink=auto "$(service_tree "$2")" "$1"', path, suite)
            return path

        yield make


@pytest.fixture(scope="session")
def tree(make_tree: Callable[[], Path], package: Path) -> Tree:
    """A tree in which apt has installed the package; no process runs in it."""
    fresh = Tree(make_tree())
    fresh.install(package)
    return fresh


@pytest.fixture(scope="session")
def boot(make_tree: Callable[[], Path]) -> Iterator[Callable[[], Machine]]:
    """Boot another machine, without the package."""
    with ExitStack() as stack:

        def boot_one() -> Machine:
            machine = Machine(make_tree())
            stack.callback(machine.close)
            machine.boot()
            return machine

        yield boot_one


@pytest.fixture(scope="session")
def machine(boot: Callable[[], Machine], package: Path) -> Machine:
    """A booted machine in which apt has installed the package."""
    booted = boot()
    booted.install(package)
    return booted


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    """The service in the machine, started with the packaged configuration and an empty store."""
    service = Service(machine)
    service.start_afresh()
    yield service
    service.look_over()
