"""Options and exits that several commands share.

Invariant: a user's mistake ends with a sentence on stderr and an exit status, never with a traceback.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dicomd import __version__

if TYPE_CHECKING:
    from dicomd.config import Config

EX_CONFIG = 78  # sysexits.h: something was found in an unconfigured or misconfigured state
DEFAULT_CONFIG = Path("/etc/dicomd/dicomd.toml")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

version_option = click.version_option(__version__, prog_name="dicomd", message="%(prog)s %(version)s")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    metavar="FILE",
    help="The configuration file.",
)


def load_or_exit(path: Path) -> "Config":
    """Load the configuration from the file; if it has errors, print them all on stderr and exit with status 78."""
    from dicomd.config import ConfigError, load_config

    try:
        return load_config(path)
    except ConfigError as error:
        fail(str(error), EX_CONFIG)


def fail(message: str, status: int = 1) -> NoReturn:
    """Print `message` on stderr and exit."""
    click.echo(message, err=True)
    sys.exit(status)


def _ae_title(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from dicomd.config.problems import UnacceptableError
    from dicomd.config.rules import ae_title

    try:
        return ae_title(value)
    except UnacceptableError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    from dicomd.config.problems import UnacceptableError
    from dicomd.config.units import parse_duration

    try:
        seconds = parse_duration(f"{value}s" if value[-1:].isdigit() else value)
    except UnacceptableError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    if seconds < 0.001:
        raise click.BadParameter("at least 1ms", ctx, param)
    return seconds


def ae_title_option(name: str, **attributes: Any) -> Callable[[Decorated], Decorated]:
    """An option whose value is an AE Title; its padding is stripped."""
    return click.option(name, callback=_ae_title, **attributes)


def peer_options(timeout: str) -> Callable[[Decorated], Decorated]:
    """Add HOST, PORT, the AE Titles and the timeout to a command that calls a peer."""

    def decorate(command: Decorated) -> Decorated:
        options = (
            click.argument("host"),
            click.argument("port", type=click.IntRange(1, 65535)),
            ae_title_option("--called", default="ANY-SCP", show_default=True, help="Called AE Title."),
            ae_title_option("--calling", default="DICOMD", show_default=True, help="Calling AE Title."),
            click.option(
                "--timeout",
                callback=_seconds,
                metavar="DURATION",
                default=timeout,
                show_default=True,
                help="Longest wait for the connection and for each answer.",
            ),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
