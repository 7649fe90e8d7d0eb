"""`dicomd serve`: the Storage SCP in the foreground."""

from pathlib import Path

import click

from dicomd.cli.options import EX_CONFIG, config_option, fail, version_option


@click.command("serve")
@config_option
@version_option
def serve(config_path: Path) -> None:
    """Run the Storage SCP until SIGTERM or SIGINT.

    At a stop open Associations may end within dicomd.drain_timeout; a second signal aborts them at once. SIGHUP reads
    the configuration again: with errors in it nothing changes. Exit status: 0 after a stop, 78 for a bad configuration,
    1 where a socket or the store can't be used, or no worker can start.
    """
    from dicomd.config import examine
    from dicomd.process.serve import StartError
    from dicomd.process.serve import serve as run

    found = examine(config_path)
    if found.config is None:
        fail("\n".join(str(problem) for problem in found.errors), EX_CONFIG)
    warnings = [str(warning) for warning in found.warnings]
    if found.without_effect:
        warnings.append(f"these keys have no effect in this version: {', '.join(found.without_effect)}")
    try:
        run(found.config, config_path, warnings)
    except StartError as error:
        fail(f"dicomd: {error}")
