"""check-config, show-config and describe-config as an administrator uses them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dicomd.config import Config, describe, load_config
from tests.support.configuration import parse_config

Call = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dicomd.toml"


def test_valid_configuration_exits_0(dicomd: Call, file: Path, tmp_path: Path) -> None:
    file.write_text(f'[storage]\nroot = "{tmp_path}/store"')
    result = dicomd("check-config", "--config", file)
    assert result.exit_code == 0
    assert result.stdout == f"{file}: the configuration is valid\n"
    assert result.stderr == ""


def test_every_error_is_on_stderr_and_exits_78(dicomd: Call, file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    file.write_text(
        f'[storage]\nroot = "{tmp_path}/taken"\n[limits]\nmax_pdu = 1\n[log]\nlevel = "loud"\ncolour = true'
    )
    result = dicomd("check-config", "--config", file)
    assert result.exit_code == 78
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{file}: limits.max_pdu: 1 is out of range (at least 4KiB)",
        f'{file}: log.level: "loud" is not known ("debug", "info", "warning" or "error")',
        f"{file}: log.colour: unknown key (expected one of format, level, instances)",
        f"{file}: storage.root: {tmp_path}/taken is not a folder (a folder that dicomd may write to)",
    ]


def test_missing_file_exits_78_and_says_how_to_get_one(dicomd: Call, file: Path) -> None:
    for command in ("check-config", "show-config"):
        result = dicomd(command, "--config", file)
        assert result.exit_code == 78
        assert "No such file or directory (`dicomd describe-config --format toml` writes one)" in result.stderr


def test_warnings_do_not_fail(dicomd: Call, file: Path, tmp_path: Path) -> None:
    file.write_text(f'[storage]\nroot = "{tmp_path}"\ndurability = "none"')
    result = dicomd("check-config", "--config", file)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {file}: storage.durability: ")


def test_shown_configuration_is_the_effective_one(dicomd: Call, file: Path, tmp_path: Path) -> None:
    file.write_text('[limits]\nmax_pdu = "1MiB"')
    shown = tmp_path / "shown.toml"
    result = dicomd("show-config", "--config", file)
    shown.write_text(result.stdout)
    assert result.exit_code == 0
    assert load_config(shown) == load_config(file)
    assert 'request_timeout = "10s"' in result.stdout


def test_bad_configuration_is_not_shown(dicomd: Call, file: Path) -> None:
    file.write_text("[limits]\nassociations = 0\nconnections = 0")
    result = dicomd("show-config", "--config", file)
    assert result.exit_code == 78
    assert len(result.stderr.splitlines()) == 2


def test_description_has_three_forms(dicomd: Call) -> None:
    assert dicomd("describe-config").stdout == describe.as_text()
    assert dicomd("describe-config", "--format", "markdown").stdout == describe.as_markdown()
    assert parse_config(dicomd("describe-config", "--format", "toml").stdout) == Config()
