"""`dicomd serve`: run the Storage SCP in the foreground."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomd.cli.options import EX_CONFIG, config_option, fail, version_option

if TYPE_CHECKING:
    from dicomd.config import Examination


@click.command("serve")
@config_option
@version_option
def serve(config_path: Path) -> None:
    """Run the Storage SCP until SIGTERM or SIGINT.

    On a stop, open Associations have dicomd.drain_timeout to finish; a second signal aborts them at once. SIGHUP
    reloads the configuration; if it has errors, nothing changes. Exit status: 0 after a stop, 78 for a bad
    configuration, 1 if a socket or the store can't be used or no worker can start.
    """
    with _no_collections():
        from dicomd.supervisor.start import StartError
        from dicomd.supervisor.start import serve as run

        found = _examined(config_path)
    if found.config is None:
        sys.exit(EX_CONFIG)
    warnings = [str(warning) for warning in found.warnings]
    try:
        run(found.config, config_path, warnings)
    except StartError as error:
        fail(f"dicomd: {error}")
    finally:
        gc.collect()
        gc.freeze()  # all modules, which the interpreter would otherwise traverse several times more as it ends


@contextmanager
def _no_collections() -> Iterator[None]:
    """Collect no garbage meanwhile: imports make many objects that stay, and collections find next to nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _examined(config_path: Path) -> "Examination":
    """Examine the file and print its errors on stderr. Under systemd, wait a few seconds for it to be corrected."""
    from dicomd.config import examine
    from dicomd.supervisor.wait_for_valid_config import await_correction, has_inherited_sockets

    def corrected() -> "Examination | None":
        found = examine(config_path, starting=True)
        return found if found.config is not None else None

    found = examine(config_path, starting=True)
    if found.config is None:
        click.echo("\n".join(str(problem) for problem in found.errors), err=True)
        if has_inherited_sockets():
            found = await_correction(corrected) or found
    return found
