"""`dicomd show-config`: what is in force, defaults filled in."""

from pathlib import Path

import click

from dicomd.cli.options import config_option, load_or_exit, version_option


@click.command("show-config")
@config_option
@version_option
def show_config(config_path: Path) -> None:
    """Print the effective configuration as TOML.

    Defaults are filled in. Of keys and certificates only the paths are shown. The output is a configuration file
    itself.
    """
    from dicomd.config import to_toml

    click.echo(to_toml(load_or_exit(config_path)), nl=False)
