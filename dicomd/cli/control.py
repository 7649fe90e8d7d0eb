"""Talking to the running daemon: find its control socket, send a request, and end the command if it is refused."""

import tomllib
from pathlib import Path
from typing import Any

from dicomd.cli.options import fail


def daemon_folder(config_path: Path) -> tuple[Path, bool]:
    """Return the folder of the daemon's control socket and metric files, and whether the configuration names it."""
    from dicomd.config import ConfigError, load_config
    from dicomd.supervisor.runtime_dir import DEFAULT, from_environment

    try:
        configured = load_config(config_path).dicomd.runtime_dir
    except ConfigError:
        configured = _runtime_dir_of_a_bad_one(config_path)
    return configured or from_environment() or DEFAULT, configured is not None


def _runtime_dir_of_a_bad_one(config_path: Path) -> Path | None:
    """Return the `runtime_dir` of a file that is invalid elsewhere: the daemon still runs on the previous version."""
    try:
        written = tomllib.loads(config_path.read_text())["dicomd"]["runtime_dir"]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return None
    return Path(written) if isinstance(written, str) and written else None


def ask_daemon(config_path: Path, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Return the daemon's answer to `request`; exit with status 1 if it refuses or can't be reached.

    The daemon's folder is the one in the configuration file, else $RUNTIME_DIRECTORY, else that of the shipped unit. An
    invalid configuration file doesn't prevent the request, since the daemon may be running with an earlier version.
    """
    from dicomd.supervisor.control import NoDaemonError, ask

    folder, configured = daemon_folder(config_path)
    try:
        answer = ask(folder, request, timeout=timeout)
    except NoDaemonError as error:
        fail(f"dicomd: {error}" + ("" if configured else " (dicomd.runtime_dir names another folder)"))
    if not answer.get("ok"):
        fail(f"dicomd: {answer.get('error', 'the daemon refused')}")
    return answer
