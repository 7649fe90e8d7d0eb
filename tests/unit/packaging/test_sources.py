"""The sources of the Debian package, checked without building it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dicomd import __version__
from dicomd.cli.main import COMMANDS
from dicomd.config.keys import tables

ROOT = Path(__file__).parents[3]
DEBIAN = ROOT / "packaging" / "debian"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "packaging" / "man" / "pages.py", folder], check=True)
    return folder


def rendered(page: Path) -> str:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    done = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--no-hyphenation", "--no-justification", "--local-file", page],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "1000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return re.sub(".\x08", "", done.stdout)


def test_the_manual_of_the_program_has_every_command(pages: Path) -> None:
    text = rendered(pages / "dicomd.8")
    for command in COMMANDS:
        assert re.search(rf"^ +dicomd {command}\b", text, re.MULTILINE), command
    assert "`" not in text


def test_the_manual_of_the_configuration_has_every_key_under_its_table(pages: Path) -> None:
    text = rendered(pages / "dicomd.toml.5")
    for table in tables():
        section = re.search(rf"^{re.escape(table.header)}\n(.*?)(?=^\S)", text, re.MULTILINE | re.DOTALL)
        assert section, table.header
        for key in table.keys:
            assert re.search(rf"^ +{key.name} \(", section[1], re.MULTILINE), key.path
            assert " ".join(key.doc.split()) in " ".join(section[1].split()), key.path


def test_the_version_of_the_package_is_the_programs() -> None:
    version = re.match(r"dicomd \((.*)-\d+\) ", (DEBIAN / "changelog").read_text())
    assert version
    assert version[1].replace("~", "") == __version__


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    """Those that are no modules, too: the status page's template and style."""
    build = "import sys, flit_core.buildapi; print(flit_core.buildapi.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("dicomd/")}
    package = ROOT / "dicomd"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(ROOT)) for path in files}
    assert {"dicomd/monitoring/page.html", "dicomd/monitoring/page.css"} <= names


def test_the_copyright_names_every_library_of_the_lock() -> None:
    lock = (ROOT / "requirements" / "run.txt").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)) - {
        "flit-core"
    }  # needed to build dicomd, not part of the package
    text = (DEBIAN / "copyright").read_text()
    assert [name for name in sorted(names) if name.replace("-", "_") not in text and name not in text] == []


def test_nothing_of_tmpfiles_empties_a_folder() -> None:
    lines = (ROOT / "packaging" / "dicomd.tmpfiles").read_text().splitlines()
    kinds = {line.split()[0] for line in lines if line and not line.startswith("#")}
    assert kinds == {"d"}  # D, r, R and $ would delete files when the package is removed or purged
