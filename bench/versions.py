"""Another version of dicomd to compare this one with: a folder that contains it, or a commit of this repository.

Both run with the same interpreter and the same libraries, those of this checkout's environment. So what is compared is
dicomd's own code, and a version that needs other libraries can't be compared.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Version:
    """A version of dicomd: its name in tables, and the folder that contains the package `dicomd`."""

    label: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which Python imports this version rather than the installed one."""
        return {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}


THIS = Version("this", ROOT)


def find(named: str, scratch: Path) -> Version:
    """Return the version in the folder `named`, or else that of the commit, which is unpacked below `scratch`.

    Raises BenchError if there is neither, or if this environment can't run it.
    """
    folder = Path(named).resolve()
    version = Version(folder.name, folder) if (folder / "dicomd").is_dir() else _unpacked(named, scratch)
    _expect_to_run(version)
    return version


def _unpacked(commit: str, scratch: Path) -> Version:
    try:
        short = _git("rev-parse", "--verify", "--short", f"{commit}^{{commit}}").decode().strip()
    except BenchError as error:
        raise BenchError(f"{commit} is neither a folder that contains dicomd nor a commit: {error}") from error
    folder = scratch / f"dicomd-{short}"
    folder.mkdir()
    _run(["tar", "-x", "-C", str(folder)], _git("archive", short, "dicomd"))
    return Version(short, folder)


def _git(*words: str) -> bytes:
    return _run(["git", "-C", str(ROOT), *words])


def _run(command: list[str], standard_input: bytes = b"") -> bytes:
    try:
        done = subprocess.run(command, input=standard_input, capture_output=True, check=False, timeout=60)
    except OSError as error:
        raise BenchError(f"{command[0]} can't be run: {error}") from error
    if done.returncode:
        raise BenchError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _expect_to_run(version: Version) -> None:
    program = "import dicomd.cli.serve as found; print(found.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=version.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise BenchError(f"dicomd {version.label} doesn't run in this environment: {done.stderr.strip()}")
    if not Path(done.stdout.strip()).is_relative_to(version.folder):
        raise BenchError(f"instead of dicomd {version.label}, Python imports {done.stdout.strip()}")
