"""`dicomd maintenance on|off`: reject new Associations for a while without stopping the daemon."""

from pathlib import Path

import click

from dicomd.cli.control import ask_daemon
from dicomd.cli.options import config_option, version_option


@click.command("maintenance")
@click.argument("wanted", metavar="on|off", type=click.Choice(["on", "off"]))
@config_option
@version_option
def maintenance(wanted: str, config_path: Path) -> None:
    """Stop or resume accepting new Associations.

    While maintenance is on, the daemon is not ready, new Associations are rejected (2/3/1, which peers retry) and open
    ones may finish. It survives a reload but not a restart. Exit status: 0 when the daemon has applied the change,
    else 1.
    """
    answer = ask_daemon(config_path, {"command": "maintenance", "on": wanted == "on"}, timeout=10)
    open_ones = answer.get("associations", 0)
    click.echo(f"maintenance is {wanted}; {open_ones} Association{'' if open_ones == 1 else 's'} open")
