"""Runs senders written by others, if they are installed.

If a sender isn't installed, its tests are skipped with the reason; no sender is imitated.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

DEADLINE = 60
"""Seconds within which a sender must finish."""

_DCMJS = Path(__file__).parent / "dcmjs"
_DEBIAN_PACKAGES = {
    "storescu": "dcmtk",
    "dcmsend": "dcmtk",
    "echoscu": "dcmtk",
    "dump2dcm": "dcmtk",
    "img2dcm": "dcmtk",
    "gdcmscu": "libgdcm-tools",
    "odil": "odil",
    "send_image": "ctn",
    "java": "default-jre-headless",
    "Orthanc": "orthanc",
    "node": "nodejs",
    "npm": "npm",
    "promtool": "prometheus",
    "chromium": "chromium",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "testssl": "testssl.sh",
    "sslscan": "sslscan",
}


@dataclass(frozen=True)
class Run:
    """The outcome of running a sender; `output` is stdout and stderr together."""

    exit_status: int
    output: str


def program(name: str) -> str:
    """The path of a sender's program; skips the test if it isn't installed.

    Ignores this Python's own folder of programs, where pynetdicom installs its own storescu and echoscu. Orthanc is in
    a folder for administrators, which isn't on everybody's path.
    """
    own = Path(sys.prefix) / "bin"
    folders = [folder for folder in os.get_exec_path() if Path(folder) != own] + ["/usr/sbin"]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        pytest.skip(f"{name} is not installed (Debian package {_DEBIAN_PACKAGES[name]})")
    return path


def option(name: str, wanted: str) -> str:
    """An option of a program; skips the test if the installed version has no such option."""
    if wanted not in run(program(name), "--help").output:
        pytest.skip(f"the installed version of {name} has no option {wanted}")
    return wanted


def run(*command: str | int | Path, cwd: Path | None = None, deadline: float = DEADLINE) -> Run:
    """Run a sender until it ends, for at most `deadline` seconds. Raises subprocess.TimeoutExpired."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=deadline,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    return Run(done.returncode, done.stdout.decode(errors="replace"))


def pynetdicom(app: str, host: str, port: int, *arguments: str | Path) -> Run:
    """Run one of pynetdicom's applications: storescu or echoscu."""
    return run(sys.executable, "-m", "pynetdicom", app, host, str(port), *arguments)


def dicomd(command: str, host: str, port: int, *arguments: str | Path) -> Run:
    """Run one of dicomd's own senders: echo or send."""
    return run(sys.executable, "-m", "dicomd", command, host, str(port), *arguments)


def gdcmscu(host: str, port: int, *arguments: str | Path) -> Run:
    """Run GDCM's gdcmscu.

    Version 3.0.21 (Debian 12) crashes with SIGABRT after everything has been sent, answered and released, with any
    receiver. That counts as success here; tests examine what was sent over the wire.
    """
    done = run(program("gdcmscu"), *arguments, host, str(port))
    ended_well = done.exit_status == 0 or "ProtocolStream as nullptr is invalid" in done.output
    return Run(0 if ended_well else done.exit_status, done.output)


def odil(host: str, port: int, *files: Path) -> Run:
    """Send files with odil over one Association. It says what it could not send, and ends with 0 all the same."""
    return run(program("odil"), "store", host, port, "ODIL", "DICOMD", *files)


def send_image(host: str, port: int, *files: Path) -> Run:
    """Send files with send_image of CTN (Mallinckrodt Institute of Radiology)."""
    return run(program("send_image"), "-q", "-a", "CTN", "-c", "DICOMD", host, port, *files)


def pixelmed(host: str, port: int, file: Path) -> Run:
    """Send a file with PixelMed.

    It could send several over one Association, but sends all instances of a SOP Class in one of the contexts for it,
    whatever their Transfer Syntaxes are.
    """
    jar = Path("/usr/share/java/pixelmed.jar")
    if not jar.exists():
        pytest.skip("PixelMed is not installed (Debian package libpixelmed-java)")
    quick_to_start = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    command = (program("java"), *quick_to_start, "-cp", jar, "com.pixelmed.network.StorageSOPClassSCU")
    return run(*command, host, port, "DICOMD", "PIXELMED", file, "0")


def dcmjs_dimse(host: str, port: int, *files: Path | str, window: int = 1) -> Run:
    """Send files with dcmjs-dimse over one Association; its output contains one line per file: status and UID.

    With "--each" before the files, each is sent over an Association of its own, so that one which dcmjs-dimse can't
    encode doesn't cost the others. With a `window` above 1, it proposes to have so many requests outstanding.
    """
    return run(program("node"), dcmjs_folder() / "store.cjs", host, str(port), str(window), *files)


@cache
def dcmjs_folder() -> Path:
    """A folder with dcmjs-dimse, installed from its lock file and kept for the next run. Skips if that fails.

    `scripts/test` installs it beside the lock file; otherwise it is installed into the user's cache.
    """
    program("node")
    if (_DCMJS / "node_modules" / ".package-lock.json").exists():
        return _DCMJS
    npm = program("npm")
    lock = (_DCMJS / "package-lock.json").read_bytes()
    folder = _cache_folder() / f"dcmjs-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # other test processes wait until it is installed
        for name in ("package.json", "package-lock.json", "store.cjs"):
            shutil.copy(_DCMJS / name, folder / name)
        if not (folder / ".installed").exists():
            done = run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)
            if done.exit_status:
                pytest.skip(f"dcmjs-dimse could not be installed: {done.output.strip().splitlines()[-1:]}")
            (folder / ".installed").touch()
    return folder


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dicomd-tests"
