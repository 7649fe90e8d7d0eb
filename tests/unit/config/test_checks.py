"""The checks of a configuration against this machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dicomd.config import ConfigError, Problem, examine
from tests.support.configuration import parse_config

TLS = """
[[listen]]
name = "tls"
address = "127.0.0.1:2762"
tls = true
[storage]
root = "{folder}"
[tls]
certificate = "{folder}/{certificate}"
key = "{folder}/{key}"
"""

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    for name in ("a", "b"):
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"),
        )
    _openssl("ec", "-in", f"{folder}/a.key", "-aes128", "-passout", "pass:secret", "-out", f"{folder}/locked.key")
    (folder / "text.pem").write_text("not a certificate")
    return folder


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def errors(text: str, folder: Path) -> list[Problem]:
    """The errors of a configuration, whose file is in a folder."""
    file = folder / "dicomd.toml"
    file.write_text(text)
    return list(examine(file).errors)


def tls_problems(folder: Path, certificate: str, key: str, more: str = "") -> list[tuple[str, str]]:
    problems = errors(TLS.format(folder=folder, certificate=certificate, key=key) + more, folder)
    return [(problem.key, problem.what.replace(f"{folder}/", "")) for problem in problems]


def test_folder_that_is_there_or_can_be_made_is_fine(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a/b/c"):
        assert errors(f'[storage]\nroot = "{folder}"', tmp_path) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "dicomd.toml"]


def test_a_layout_that_stores_an_instance_again_elsewhere_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "dicomd.toml"
    for layout, named in (
        ("{Modality}/{StudyDate}/{SOPInstanceUID}.dcm", ""),
        ("{CalledAETitle}/{SOPInstanceUID}.dcm", "another {CalledAETitle} is"),
        ("{Peer}/{CallingAETitle}/{ReceivedDate}/{SOPInstanceUID}.dcm", "another {CallingAETitle} or {Peer} or {Rec"),
    ):
        file.write_text(f'[storage]\nroot = "{tmp_path}"\nlayout = "{layout}"\n')
        found = [warning.what for warning in examine(file).warnings if warning.key == "storage.layout"]
        assert len(found) == bool(named)
        assert named in "".join(found)


def test_a_path_longer_than_the_system_allows_is_an_error() -> None:
    parts = "{CalledAETitle}/" * 70
    for root, expected in (("/srv", []), ("/" + "/".join(["x" * 200] * 4), ["storage.layout"])):
        text = f'[storage]\nroot = "{root}"\nlayout = "{parts}{{SOPInstanceUID}}.dcm"'
        try:
            parse_config(text)
            found = []
        except ConfigError as error:
            found = [problem.key for problem in error.problems]
        assert found == expected


def test_folder_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problems = errors(f'[storage]\nroot = "{tmp_path}/file/store"\n[audit]\nspool = "{tmp_path}/file"', tmp_path)
    assert [problem.key for problem in problems] == ["storage.root", "audit.spool"]


def test_name_too_long_for_the_file_system_is_an_error(tmp_path: Path) -> None:
    problems = errors(f'[storage]\nroot = "{tmp_path}/{"x" * 300}"', tmp_path)
    assert [problem.key for problem in problems] == ["storage.root"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    problems = errors(f'[storage]\nroot = "{closed}/store"', tmp_path)
    assert [problem.key for problem in problems] == ["storage.root"]


@needs_openssl
def test_certificate_with_its_key_is_fine(certificates: Path) -> None:
    assert tls_problems(certificates, "a.pem", "a.key", f'client_ca = "{certificates}/b.pem"') == []


@needs_openssl
@pytest.mark.parametrize(
    ("certificate", "key", "problems"),
    [
        ("a.pem", "b.key", [("tls.key", "b.key doesn't match a.pem")]),
        ("a.pem", "locked.key", [("tls.key", "locked.key has a passphrase")]),
        ("a.pem", "text.pem", [("tls.key", "text.pem contains no private key")]),
        ("text.pem", "a.key", [("tls.certificate", "text.pem contains no certificate")]),
        (
            "no.pem",
            "no.key",
            [
                ("tls.certificate", "no.pem can't be read: No such file or directory"),
                ("tls.key", "no.key can't be read: No such file or directory"),
            ],
        ),
    ],
)
def test_certificate_and_key_that_cannot_be_used_are_told_apart(
    certificates: Path, certificate: str, key: str, problems: list[tuple[str, str]]
) -> None:
    assert tls_problems(certificates, certificate, key) == problems


@needs_openssl
def test_authorities_without_a_certificate_are_an_error(certificates: Path) -> None:
    found = tls_problems(certificates, "a.pem", "a.key", f'client_ca = "{certificates}/text.pem"')
    assert found == [("tls.client_ca", "text.pem contains no usable certificate")]


def test_tls_files_are_not_read_without_a_tls_listener(tmp_path: Path) -> None:
    assert errors(f'[storage]\nroot = "{tmp_path}"\n[tls]\ncertificate = "/no/such/file"', tmp_path) == []


@needs_openssl
def test_key_that_everybody_can_read_is_a_warning(certificates: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    shutil.copytree(certificates, folder)
    (folder / "a.key").chmod(0o644)
    file = tmp_path / "c.toml"
    file.write_text(TLS.format(folder=folder, certificate="a.pem", key="a.key"))
    found = examine(file)
    assert [problem.key for problem in found.errors] == []
    assert "tls.key" in [warning.key for warning in found.warnings]


def test_durability_none_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[storage]\nroot = "{tmp_path}"\ndurability = "none"')
    assert [warning.key for warning in examine(file).warnings] == ["storage.durability"]


def test_a_root_that_links_to_what_is_not_there_is_a_warning(tmp_path: Path) -> None:
    file, link = tmp_path / "c.toml", tmp_path / "link"
    link.symlink_to(tmp_path / "missing")
    file.write_text(f'[storage]\nroot = "{link}/store"')
    found = examine(file)
    assert [warning.key for warning in found.warnings] == ["storage.root"]
    assert f"{link} is a symbolic link" in str(found.warnings[0])
    assert found.config is not None
    (tmp_path / "missing").mkdir()
    assert examine(file).warnings == ()
