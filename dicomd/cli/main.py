"""The command `dicomd`: its commands, and the module that each one lives in.

A command's module is imported only when that command is called, so `dicomd --help` imports nothing but click.
"""

from importlib import import_module
from typing import NamedTuple

import click

from dicomd.cli.options import version_option


class Registered(NamedTuple):
    """Where a command lives, and its line in the help of `dicomd`."""

    target: str
    summary: str


COMMANDS = {
    "serve": Registered("dicomd.cli.serve:serve", "Run the Storage SCP until SIGTERM or SIGINT."),
    "check-config": Registered("dicomd.cli.check_config:check_config", "Validate the configuration."),
    "show-config": Registered("dicomd.cli.show_config:show_config", "Print the effective configuration as TOML."),
    "describe-config": Registered(
        "dicomd.cli.describe_config:describe_config", "Describe the keys of the configuration."
    ),
    "check-peer": Registered("dicomd.cli.check_peer:check_peer", "Say whether a peer would be admitted, and why."),
    "status": Registered("dicomd.cli.status:status", "Show what the daemon is doing."),
    "reload": Registered("dicomd.cli.reload:reload", "Make the daemon reload its configuration."),
    "maintenance": Registered("dicomd.cli.maintenance:maintenance", "Stop or resume accepting new Associations."),
    "verify-store": Registered("dicomd.cli.verify_store:verify_store", "Re-read the store and list what is wrong."),
    "echo": Registered("dicomd.cli.echo:echo", "Send a C-ECHO to a DICOM peer."),
    "send": Registered("dicomd.cli.send:send", "Send DICOM files to a peer (C-STORE)."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of `COMMANDS`, which is the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return the command, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name].target} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.group(
    name="dicomd",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Shell completion: put eval "$(_DICOMD_COMPLETE=bash_source dicomd)" into ~/.bashrc '
    "(zsh_source and fish_source for those shells).",
)
@version_option
def main() -> None:
    """A DICOM Storage SCP that runs as a proper Linux service."""
