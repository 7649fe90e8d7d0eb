"""`dicomd reload`: reload the configuration as SIGHUP does, and report the outcome."""

from pathlib import Path

import click

from dicomd.cli.control import ask_daemon
from dicomd.cli.options import config_option, version_option


@click.command("reload")
@click.option("--timeout", type=click.FloatRange(min=1), default=90.0, show_default=True, help="Seconds to wait.")
@config_option
@version_option
def reload(config_path: Path, timeout: float) -> None:
    """Make the daemon reload its configuration.

    Waits for the outcome. New Associations get the new configuration, open ones keep the old one until they end. If
    the file has any error, nothing changes. Exit status: 0 when the new configuration is in use, else 1 with the
    reasons on stderr.
    """
    answer = ask_daemon(config_path, {"command": "reload"}, timeout=timeout)
    click.echo(f"generation {answer.get('generation')} serves new Associations")
    for key in answer.get("restart_pending", ()):
        click.echo(f"{key} keeps its value until a restart", err=True)
