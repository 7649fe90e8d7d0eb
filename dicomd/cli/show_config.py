"""`dicomd show-config`: print the effective configuration, defaults included."""

from pathlib import Path

import click

from dicomd.cli.options import config_option, load_or_exit, version_option


@click.command("show-config")
@config_option
@version_option
def show_config(config_path: Path) -> None:
    """Print the effective configuration as TOML.

    Defaults are filled in. Keys and certificates appear only as paths. The output is itself a valid configuration file.
    """
    from dicomd.config import to_toml

    click.echo(to_toml(load_or_exit(config_path)), nl=False)
