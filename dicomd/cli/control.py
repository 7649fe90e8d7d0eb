"""Commands for the running daemon: where its control socket is, and what becomes of a refusal."""

import tomllib
from pathlib import Path
from typing import Any

from dicomd.cli.options import fail


def daemon_folder(config_path: Path) -> tuple[Path, bool]:
    """Where the daemon's control socket and metric files are, and whether the configuration says so."""
    from dicomd.config import ConfigError, load_config
    from dicomd.process.runtime_dir import DEFAULT, from_environment

    try:
        configured = load_config(config_path).dicomd.runtime_dir
    except ConfigError:
        configured = _runtime_dir_of_a_bad_one(config_path)
    return configured or from_environment() or DEFAULT, configured is not None


def _runtime_dir_of_a_bad_one(config_path: Path) -> Path | None:
    """What a file that is wrong elsewhere says: whoever broke it asks the daemon, which runs with the one before."""
    try:
        written = tomllib.loads(config_path.read_text())["dicomd"]["runtime_dir"]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return None
    return Path(written) if isinstance(written, str) and written else None


def ask_daemon(config_path: Path, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """The daemon's answer to the request; ends the command with exit status 1 where it refuses or can't be reached.

    Its folder is that of the configuration file, else $RUNTIME_DIRECTORY, else the one of the shipped unit. A file that
    can't be used is no hindrance: the daemon may run with an earlier one.
    """
    from dicomd.process.control import NoDaemonError, ask

    folder, configured = daemon_folder(config_path)
    try:
        answer = ask(folder, request, timeout=timeout)
    except NoDaemonError as error:
        fail(f"dicomd: {error}" + ("" if configured else " (dicomd.runtime_dir names another folder)"))
    if not answer.get("ok"):
        fail(f"dicomd: {answer.get('error', 'the daemon refused')}")
    return answer
