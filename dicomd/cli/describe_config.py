"""`dicomd describe-config`: print the schema, for reading or as the generated files of the source tree."""

import click

from dicomd.cli.options import version_option


@click.command("describe-config")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "toml", "markdown"]),
    default="text",
    show_default=True,
    help="text for the terminal, toml for a commented configuration file, markdown for the reference.",
)
@version_option
def describe_config(form: str) -> None:
    """Describe the keys of the configuration.

    Shows the type, unit and default of each key, and whether a reload applies it. In the source tree, etc/dicomd.toml
    is the output of `--format toml` and docs/configuration.md that of `--format markdown`.
    """
    from dicomd.config import describe

    render = {"text": describe.as_text, "toml": describe.as_toml, "markdown": describe.as_markdown}[form]
    click.echo(render(), nl=False)
