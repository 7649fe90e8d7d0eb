"""`dicomd check-config`: report everything that would make `serve` or a reload reject a configuration."""

from pathlib import Path

import click

from dicomd.cli.options import EX_CONFIG, config_option, fail, version_option


@click.command("check-config")
@config_option
@version_option
def check_config(config_path: Path) -> None:
    """Validate the configuration.

    All errors are reported at once. Folders, certificates and keys are checked with the permissions of the user who
    runs this command. Exit status: 0 if the configuration can be used, else 78 with every error on stderr.
    """
    from dicomd.config import examine

    found = examine(config_path)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    if found.errors:
        fail("\n".join(str(problem) for problem in found.errors), EX_CONFIG)
    click.echo(f"{config_path}: the configuration is valid")
