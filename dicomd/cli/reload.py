"""`dicomd reload`: SIGHUP, and how it ended."""

from pathlib import Path

import click

from dicomd.cli.control import ask_daemon
from dicomd.cli.options import config_option, version_option


@click.command("reload")
@click.option("--timeout", type=click.FloatRange(min=1), default=90.0, show_default=True, help="Seconds to wait.")
@config_option
@version_option
def reload(config_path: Path, timeout: float) -> None:
    """Put the configuration into force.

    Waits until it is. New Associations get the new configuration, open ones end under the old one. With any error in
    the file nothing changes. Exit status: 0 when the new configuration serves, else 1 with the reasons on stderr.
    """
    answer = ask_daemon(config_path, {"command": "reload"}, timeout=timeout)
    click.echo(f"generation {answer.get('generation')} serves new Associations")
    for key in answer.get("restart_pending", ()):
        click.echo(f"{key} keeps its value until a restart", err=True)
