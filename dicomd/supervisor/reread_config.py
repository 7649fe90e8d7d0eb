"""Reads the file for a reload: returns the configuration to put into force, or the reasons why it can't be.

Invariant: all or nothing. Unless the whole file is valid, nothing of it is used. Keys that can't change while the
daemon runs keep their values, and are reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomd.config import Config, examine, unreloadable_changes
from dicomd.config.keys import tables
from dicomd.config.tls import Looking, ignore_path
from dicomd.supervisor.tls_setup import TlsFiles, UnusableTlsError, read_files

MAX_ERRORS = 20
"""The most errors that are logged and sent to a caller; `dicomd check-config` reports all of them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading a file. `config` is None if there are `errors`; `pending` are the keys that need a restart.

    `tls` has the contents of the files that TLS listeners need, if there are any.
    """

    config: Config | None
    tls: TlsFiles | None = None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def reread(path: Path, running: Config, looking: Looking = ignore_path) -> Reading:
    """Read the file for a daemon that runs with the configuration `running`.

    Hangs if a file system does; `looking` is called with each path before it is accessed.
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
    """Return the new configuration, with the running one's values of all keys that only a restart can change."""
    kept = {}
    for table in tables():
        fixed = [key.name for key in table.keys if not key.reload]
        if not fixed:
            continue
        before = getattr(running, table.name)
        after = getattr(new, table.name)
        if table.repeated:  # an added or removed entry has no counterpart, so the whole table is kept
            kept[table.name] = before
        else:
            kept[table.name] = after.model_copy(update={name: getattr(before, name) for name in fixed})
    return new.model_copy(update=kept)
