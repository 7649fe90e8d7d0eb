"""Runs the static checks as tests, so that the summary of a test run includes them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "check",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=" ".join,
)
def test_the_sources_pass(check: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_the_lock_names_every_package_with_its_hashes_and_no_registry() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        entries = [line for line in lock.read_text().splitlines() if line and not line.lstrip().startswith("#")]
        pins = [line for line in entries if not line.startswith(" ")]
        assert pins, lock
        assert all("==" in line and line.endswith("\\") for line in pins), lock
        assert all(line.strip().startswith("--hash=sha256:") for line in entries if line.startswith(" ")), lock
        assert "://" not in "\n".join(entries), lock
