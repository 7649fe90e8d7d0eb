"""From a file to the configuration that a reload puts into force, or to the reasons why it doesn't.

The rule it keeps: all or nothing. The whole file is valid, or nothing of it is used; keys that can't change while the
daemon runs keep their value, and are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomd.config import Config, examine, unreloadable_changes
from dicomd.config.keys import tables
from dicomd.config.tls import Looking, tell_nobody
from dicomd.supervisor.tls_setup import TlsFiles, UnusableTlsError, read_files

MAX_ERRORS = 20
"""Of those that are logged and answered: `dicomd check-config` tells them all."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file came to. `config` is None where there are `errors`; `pending` are the keys that need a restart.

    `tls` are the files of TLS listeners, if there are any.
    """

    config: Config | None
    tls: TlsFiles | None = None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def read(path: Path, running: Config, looking: Looking = tell_nobody) -> Reading:
    """Read the file for a daemon that runs with `running`.

    Waits for a file system that hangs; `looking` is told of each path before it is looked at.
    """
    found = examine(path, looking=looking)
    if found.config is None:
        return Reading(None, errors=tuple(str(problem) for problem in found.errors))
    config = keep_unreloadable(running, found.config)
    try:
        tls = read_files(config)
    except UnusableTlsError as error:
        return Reading(None, errors=(str(error),))
    return Reading(
        config,
        tls,
        warnings=tuple(str(warning) for warning in found.warnings),
        pending=tuple(unreloadable_changes(running, found.config)),
    )


def keep_unreloadable(running: Config, new: Config) -> Config:
    """The new configuration with the values of the running one where only a restart can change them."""
    kept = {}
    for table in tables():
        fixed = [key.name for key in table.keys if not key.reload]
        if not fixed:
            continue
        before, after = getattr(running, table.name), getattr(new, table.name)
        if table.repeated:  # one that comes or goes has no counterpart: all stay
            kept[table.name] = before
        else:
            kept[table.name] = after.model_copy(update={name: getattr(before, name) for name in fixed})
    return new.model_copy(update=kept)
