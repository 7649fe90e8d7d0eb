"""`dicomd describe-config`: the schema, for reading or as the generated files of the source tree."""

import click

from dicomd.cli.options import version_option


@click.command("describe-config")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "toml", "markdown"]),
    default="text",
    show_default=True,
    help="text to read here, toml as a commented configuration file, markdown as its reference.",
)
@version_option
def describe_config(form: str) -> None:
    """Describe the keys of the configuration.

    For each key: its type, unit and default, and whether a reload applies it. `--format toml` is etc/dicomd.toml and
    `--format markdown` docs/configuration.md of the source tree.
    """
    from dicomd.config import describe

    render = {"text": describe.as_text, "toml": describe.as_toml, "markdown": describe.as_markdown}[form]
    click.echo(render(), nl=False)
