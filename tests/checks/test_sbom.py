"""The software bill of materials agrees with the lock: every package, its version, and the hashes of its files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(300)
def test_the_bill_of_materials_is_complete(tmp_path: Path) -> None:
    if not (ROOT / ".cache" / "venv-sbom" / "bin" / "cyclonedx-py").exists():
        pytest.skip("cyclonedx-bom is not installed: scripts/sbom makes its environment")
    file = tmp_path / "dicomd.cdx.json"
    done = subprocess.run([ROOT / "scripts" / "sbom", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # the program validates its own output
    bill = json.loads(file.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "dicomd"
    lock = re.split(r"(?m)^(?=[A-Za-z0-9])", (ROOT / "requirements" / "run.txt").read_text())[1:]
    locked = {
        (name.lower(), version): set(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        for entry in lock
        for name, version in re.findall(r"\A([\w.-]+)==(\S+)", entry)
    }
    found = {
        (component["name"].lower(), component["version"]): {
            content["content"]
            for reference in component["externalReferences"]
            for content in reference.get("hashes", [])
        }
        for component in bill["components"]
    }
    assert found == locked
    assert all(hashes for hashes in found.values())
