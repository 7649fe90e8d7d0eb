"""What of a configuration only the machine can tell: folders, certificates and keys.

The rule: nothing is created or changed by looking. Errors are what would stop the start or a reload; warnings are
what an administrator should know.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomd.config import peers
from dicomd.config.certificates import holds_certificate
from dicomd.config.effect import warning
from dicomd.config.keys import without_effect
from dicomd.config.load import outcome, read
from dicomd.config.problems import ConfigError, Problem
from dicomd.config.schema import Config
from dicomd.config.tls import Findings, Looking, look, tell_nobody, unreadable


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything found out about a configuration file. `config` is None if there are errors."""

    config: Config | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    without_effect: tuple[str, ...]


def examine(path: str | os.PathLike[str], *, starting: bool = False, looking: Looking = tell_nobody) -> Examination:
    """All findings about a file at once, those of its text and those of the machine. Raises nothing for a bad file.

    A file system that hangs holds this up without end: `looking` is told of each path before that may happen.
    `starting`: a certificate whose time is over doesn't keep the daemon from starting. It is only warned about then,
    since peers that don't look at it, and listeners without TLS, are still served.
    """
    file = os.fspath(path)
    looking("", Path(path))
    try:
        found = outcome(read(path), file)
    except ConfigError as error:
        return Examination(None, error.problems, (), ())
    tls = _tls(found.config, file, looking)
    of_machine = [*_folders(found.config, file, looking), *tls.errors, *([] if starting else tls.lapsed)]
    errors = [*found.problems]
    errors.extend(problem for problem in of_machine if problem.key.split(".")[0] not in found.broken)
    warnings = [*_warnings(found.config, file), *(tls.lapsed if starting else []), *tls.warnings]
    ineffective = () if errors else tuple(without_effect(found.config))
    return Examination(None if errors else found.config, tuple(errors), tuple(warnings), ineffective)


def check(config: Config, file: str = "configuration") -> list[Problem]:
    """What speaks against putting this configuration into force on this machine, as the user who asks."""
    tls = _tls(config, file, tell_nobody)
    return [*_folders(config, file, tell_nobody), *tls.errors, *tls.lapsed]


def _tls(config: Config, file: str, looking: Looking) -> Findings:
    """Of the files of [tls], which nobody reads without a TLS listener."""
    speaks_tls = any(listener.tls for listener in config.listen)
    return look(file, config.tls, time.time(), looking) if speaks_tls else Findings()


def _folders(config: Config, file: str, looking: Looking) -> Iterator[Problem]:
    for key, folder in (
        ("storage.root", config.storage.root),
        ("dicomd.runtime_dir", config.dicomd.runtime_dir),
        ("audit.spool", config.audit.spool),
    ):
        if folder is not None:
            looking(key, folder)
            yield from _folder(file, key, folder)
    yield from _audit(file, config, looking)


def _audit(file: str, config: Config, looking: Looking) -> Iterator[Problem]:
    spool, ca = config.audit.spool, config.audit.syslog_ca
    if spool is not None and spool.is_relative_to(config.storage.root):
        yield Problem(file, "audit.spool", f"{spool} is inside the store", "a folder outside of storage.root")
    if config.audit.syslog is None or ca is None:
        return
    looking("audit.syslog_ca", ca)
    if problem := unreadable(file, "audit.syslog_ca", ca):
        yield problem
    elif not holds_certificate(ca):
        yield Problem(file, "audit.syslog_ca", f"{ca} holds nothing that can be used", "a PEM file of certificates")


def _folder(file: str, key: str, folder: Path) -> Iterator[Problem]:
    """The folder must be writable, or be one that can be made."""
    nearest = folder
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        is_folder = nearest.is_dir()
    except OSError as error:  # PermissionError on the way, a name that is too long
        yield Problem(file, key, f"{folder} can't be looked at: {error.strerror}", "a folder that dicomd may write to")
        return
    if not is_folder:
        yield Problem(file, key, f"{nearest} is not a folder", "a folder that dicomd may write to")
    elif not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        wrong = f"{folder} is not writable" if nearest == folder else f"{folder} can't be made in {nearest}"
        yield Problem(file, key, wrong, "a folder that dicomd may write to")


def _warnings(config: Config, file: str) -> Iterator[Problem]:
    if config.storage.durability == "none":
        yield Problem(file, "storage.durability", "a power cut can lose instances answered with success", '"fsync"')
    yield from peers.warnings(config, file)
    told: set[str] = set()
    for path in without_effect(config):
        table, _, name = path.partition(".")
        entries = getattr(config, table)
        used = any(getattr(entry, name) for entry in (entries if isinstance(entries, tuple) else (entries,)))
        if used and (risk := warning(path)) and risk not in told:
            told.add(risk)
            yield Problem(file, path, risk)
