"""Another version of dicomd: a folder or a commit, and only if it runs here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import versions
from bench.errors import BenchError
from bench.receivers import Dicomd

IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


def make(folder: Path, serve: str = "") -> Path:
    """Make a folder with a package `dicomd` that can do nothing but be imported."""
    package = folder / "dicomd"
    (package / "cli").mkdir(parents=True)
    for file, text in {"__init__.py": "", "cli/__init__.py": "", "cli/serve.py": serve}.items():
        (package / file).write_text(text)
    return folder


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = make(tmp_path / "older")
    assert versions.find(str(folder), tmp_path) == versions.Version("older", folder)


@pytest.mark.skipif(not shutil.which("git"), reason="git isn't installed")
def test_a_commit_is_unpacked_and_the_repository_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = make(tmp_path / "repository")
    for words in (["init", "--quiet"], ["add", "."], [*IDENTITY, "commit", "--quiet", "--message", "First"]):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    (repository / "dicomd" / "cli" / "serve.py").write_text("changed = True\n")
    monkeypatch.setattr(versions, "ROOT", repository)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    version = versions.find("HEAD", scratch)
    assert version.folder == scratch / f"dicomd-{version.label}"
    assert (version.folder / "dicomd" / "cli" / "serve.py").read_text() == ""
    status = ["git", "-C", str(repository), "status", "--short", "--untracked-files=no"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == " M dicomd/cli/serve.py\n"


def test_neither_a_folder_nor_a_commit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="neither a folder that contains dicomd nor a commit"):
        versions.find(str(tmp_path / "nothing"), tmp_path)


def test_a_version_that_needs_other_libraries_is_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path / "older", "import a_library_that_is_gone")
    with pytest.raises(BenchError, match=r"dicomd older doesn't run in this environment(?s:.*)a_library_that_is_gone"):
        versions.find(str(folder), tmp_path)


def test_the_other_version_is_a_receiver_of_its_own() -> None:
    receiver = Dicomd("none", 2, versions.Version("1a2b3c4", Path("/nowhere")))
    assert (receiver.name, receiver.title) == ("dicomd-none-w2@1a2b3c4", "dicomd none, 2 workers @ 1a2b3c4")
    assert receiver.version() == "1a2b3c4"
    assert receiver.environment() == {"PYTHONPATH": "/nowhere", "PYTHONSAFEPATH": "1"}
    assert Dicomd("none").environment() == {}
