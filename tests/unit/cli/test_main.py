"""The command itself: help, version, and the modules that these import."""

import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from dicomd import __version__
from dicomd.cli.main import COMMANDS, main

Call = Callable[..., Result]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicomd", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_help_lists_every_command_without_importing_it() -> None:
    program = (
        "import sys, dicomd.cli.main as m\n"
        "try: m.main(['--help'], prog_name='dicomd')\n"
        "except SystemExit: pass\n"
        "print(*[n for n in sys.modules if n.split('.')[0] in ('pydantic', 'pydicom', 'pynetdicom', 'structlog')])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    *text, imported = ran.stdout.split("\n")[:-1]
    assert imported == ""
    for name, command in COMMANDS.items():
        assert any(name in line and command.summary in line for line in text)
    assert "_DICOMD_COMPLETE=bash_source" in ran.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_version(dicomd: Call, name: str) -> None:
    shown = dicomd(name, "--help")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: dicomd {name}")
    assert dicomd(name, "--version").output == f"dicomd {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_itself_what_the_list_says(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=200).rstrip(".") + "." == COMMANDS[name].summary


def test_module_runs_as_the_command() -> None:
    assert run("--version").stdout == f"dicomd {__version__}\n"


def test_unknown_command_is_a_usage_error(dicomd: Call) -> None:
    result = dicomd("store")
    assert result.exit_code == 2
    assert "No such command 'store'" in result.output


def test_bash_completion_is_there() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dicomd"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"_DICOMD_COMPLETE": "bash_complete", "COMP_WORDS": "dicomd che", "COMP_CWORD": "1"},
    )
    assert "check-config" in ran.stdout
