"""Commands for the running daemon: where its control socket is, and what becomes of a refusal."""

from pathlib import Path
from typing import Any

from dicomd.cli.options import fail


def ask_daemon(config_path: Path, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """The daemon's answer to the request; ends the command with exit status 1 where it refuses or can't be reached.

    Its folder is that of the configuration file, else $RUNTIME_DIRECTORY, else the one of the shipped unit. A file that
    can't be used is no hindrance: the daemon may run with an earlier one.
    """
    from dicomd.config import ConfigError, load_config
    from dicomd.process.control import NoDaemonError, ask
    from dicomd.process.runtime_dir import DEFAULT, from_environment

    try:
        configured = load_config(config_path).dicomd.runtime_dir
    except ConfigError:
        configured = None
    folder = configured or from_environment() or DEFAULT
    try:
        answer = ask(folder, request, timeout=timeout)
    except NoDaemonError as error:
        fail(f"dicomd: {error}" + ("" if configured else " (dicomd.runtime_dir names another folder)"))
    if not answer.get("ok"):
        fail(f"dicomd: {answer.get('error', 'the daemon refused')}")
    return answer
