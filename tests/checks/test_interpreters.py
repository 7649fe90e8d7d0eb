"""The unit and property tests under the other Pythons that dicomd supports.

scripts/test builds an environment for each interpreter it finds; the tests of a missing one are skipped with a reason.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", sorted({"3.11", "3.12", "3.13"} - {THIS}))
def test_the_unit_and_property_tests_pass_under(version: str) -> None:
    python = ROOT / ".cache" / f"venv-{version}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"scripts/test found no python{version} on PATH or under pyenv")
    done = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-m",
            "not (system or root or soak)",
            "tests/unit",
            "tests/property",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"
