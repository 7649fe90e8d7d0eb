"""Debian trees with the package installed: a plain tree to chroot into, and a machine booted by systemd-nspawn.

Invariant: nothing outlives its test. A machine runs in namespaces and a cgroup of its own, all its processes end with
it, and it ends with this process however that ends. Its only network is loopback.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
BOOTS_WITHIN = 120.0
"""Seconds. Booting usually takes ten, or one on an idle machine."""
_ENDS_WITHIN = 60.0  # seconds for the machine to power off before it is killed
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_FORBIDDEN = ("Operation not permitted", "Permission denied", "Read-only file system")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_number = itertools.count(1)


def script(text: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script that uses the functions of scripts/tree.sh. Raises AssertionError with its output if it fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'. "$0/scripts/lib.sh"; . "$0/scripts/tree.sh"; {text}', ROOT, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done


def remove_tree(path: Path) -> None:
    """Remove a tree, but nothing that is mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


class Tree:
    """A separate Debian tree in which systemd does not run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, alone: bool = True, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside the tree; if ``alone``, with no network but loopback."""
        inside = '. "$0/scripts/lib.sh"; . "$0/scripts/tree.sh"; tree=$1; reach_network "$tree"; shift; '
        inside += f'inside {"--alone" if alone else ""} "$tree" "$@"'
        done = subprocess.run(
            ["bash", "-ec", inside, ROOT, self.path, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def shell(self, text: str, *arguments: str) -> str:
        """Run a shell script that stops at its first failure; return its output."""
        return self.run("sh", "-ec", text, "sh", *arguments).stdout

    def apt(self, *arguments: str) -> None:
        """Run apt-get without prompts."""
        self.run(*_apt(*arguments))

    def install(self, package: Path) -> None:
        """Install the package, or install it again."""
        shutil.copy(package, self.path / "root")
        self.apt("install", "--reinstall", f"/root/{package.name}")


class Machine:
    """A tree booted by systemd-nspawn. Skips the test if that is not possible here."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        if missing := [name for name in ("systemd-nspawn", "nsenter", "setpriv") if shutil.which(name) is None]:
            pytest.skip(f"{', '.join(missing)} not installed (Debian packages systemd-container and util-linux)")
        self._cgroups: list[Path] = []
        self._log = tree.with_name(f"{tree.name}.console")
        self._leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None

    # -- lifecycle --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the machine and wait until systemd has finished booting."""
        self._make_cgroups()
        join = 'until [ "$1" = -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
        nspawn = ["systemd-nspawn", "--quiet", "--directory", self.tree, "--boot", "--console=pipe", "--register=no"]
        nspawn += ["--keep-unit", "--private-network", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
        nspawn += [f"--machine=dicomd-{os.getpid()}-{next(_number)}"]
        nspawn += ["--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]  # for Debian 13 if this machine has cgroup v1
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                ["sh", "-ec", join, "sh", *self._cgroups, "--", "setpriv", "--pdeathsig", "TERM", *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        nspawn = self._nspawn
        wait_until(
            lambda: self._is_up() or nspawn.poll() is not None,
            BOOTS_WITHIN,
            what="the container did not boot",
            pause=0.1,
            failed=lambda message: AssertionError(f"{message}\n{self.console()}"),
        )
        if nspawn.poll() is not None and any(reason in self.console() for reason in _FORBIDDEN):
            pytest.skip(f"no container can be booted here: {self.console().strip().splitlines()[-1]}")
        assert nspawn.poll() is None, f"the container ended\n{self.console()}"

    def close(self) -> None:
        """Power the machine off; only its tree remains."""
        if self._nspawn is not None:
            try:
                self._nspawn.terminate()  # nspawn powers the machine off
                self._nspawn.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()  # its init dies with it, and so do all other processes
                self._nspawn.wait()
        self._remove_cgroups()
        self._log.unlink(missing_ok=True)

    def console(self) -> str:
        """The output on the machine's console."""
        return self._log.read_text(errors="replace")

    # -- commands and network ----------------------------------------------------------------------------------------

    def command(self, *command: str) -> list[str]:
        """The command line that, run outside the machine, runs a command inside it as root."""
        variables = [f"{name}={text}" for name, text in _ENVIRONMENT.items()]
        return ["nsenter", "--target", str(self._leader), "--all", "env", "--ignore-environment", *variables, *command]

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as root."""
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done

    def apt(self, *arguments: str) -> None:
        """Run apt-get without a network and without prompts."""
        self.run(*_apt(*arguments), timeout=300)

    def install(self, package: Path) -> None:
        """Install a package file, or upgrade to it."""
        self.run(*self._installation(package), timeout=300)

    def install_command(self, package: Path) -> list[str]:
        """The command line that, run outside the machine, installs a package inside it."""
        return self.command(*self._installation(package))

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` prints them."""
        lines = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Open connections of this thread, and of threads started meanwhile, inside the machine's network."""
        with Path("/proc/self/ns/net").open("rb") as before, Path(f"/proc/{self._leader}/ns/net").open("rb") as within:
            _enter(within.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def _installation(self, package: Path) -> list[str]:
        shutil.copy(package, self.tree / "root")
        return _apt("install", f"/root/{package.name}")

    # -- processes and cgroups ---------------------------------------------------------------------------------

    def _is_up(self) -> bool:
        assert self._nspawn is not None
        try:
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        except OSError:
            return False
        if len(children) != 1 or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._leader = int(children[0])
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _make_cgroups(self) -> None:
        """Make a cgroup of one name in each of systemd's hierarchies; nspawn's own would be shared by all machines."""
        name = f"dicomd-{os.getpid()}-{next(_number)}"
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "name=systemd"):
                continue
            for fields in mounts:
                kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
                if kind == ("cgroup" if controllers else "cgroup2") and (not controllers or controllers in options):
                    inside = os.path.relpath(path, fields[3])
                    folder = Path(fields[4]) / inside / name
                    try:
                        folder.mkdir()
                    except OSError as error:
                        self._remove_cgroups()
                        pytest.skip(f"no container can be booted here: no cgroup {folder}: {error.strerror}")
                    self._cgroups.append(folder)
                    break

    def _remove_cgroups(self) -> None:
        deadline = time.monotonic() + 10
        while self._cgroups:
            folder = self._cgroups[-1]
            try:
                for each in sorted(folder.rglob("*"), key=lambda each: -len(each.parts)):
                    if each.is_dir():
                        each.rmdir()
                folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # the last processes are still ending
            else:
                self._cgroups.pop()


def _apt(*arguments: str) -> list[str]:
    """apt-get without prompts, and without syncing each file: a test's tree need not survive a power loss."""
    options = [
        "-q",
        "-y",
        "--no-install-recommends",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "Dpkg::Options::=--force-unsafe-io",
    ]
    return ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *arguments]


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
