"""Checks a configuration against the machine it is used on: folders, certificates and keys.

Invariant: checking neither creates nor changes anything. An error is what would prevent the start or a reload; a
warning is what an administrator should know.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomd import layouts
from dicomd.config import peers
from dicomd.config.certificates import holds_certificate
from dicomd.config.load import read_text, validate
from dicomd.config.problems import ConfigError, Problem
from dicomd.config.schema import Config
from dicomd.config.tls import Findings, Looking, check_tls_files, ignore_path, unreadable


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings about a configuration file. `config` is None if there are errors."""

    config: Config | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def examine(path: str | os.PathLike[str], *, starting: bool = False, looking: Looking = ignore_path) -> Examination:
    """Return all findings about a file, those of its text and those of the machine. Doesn't raise for a bad file.

    Doesn't return while a file system hangs, so `looking` is called with each path before it is looked at.
    With `starting`, an expired certificate is only a warning: the daemon may start with it, since it can still serve
    listeners without TLS and peers that don't check the certificate.
    """
    file = os.fspath(path)
    looking("", Path(path))
    try:
        found = validate(read_text(path), file)
    except ConfigError as error:
        return Examination(None, error.problems, ())
    tls = _tls(found.config, file, looking)
    of_machine = [*_folders(found.config, file, looking), *tls.errors, *([] if starting else tls.lapsed)]
    errors = [*found.problems]
    errors.extend(problem for problem in of_machine if problem.key.split(".")[0] not in found.broken)
    warnings = [*_warnings(found.config, file), *(tls.lapsed if starting else []), *tls.warnings]
    return Examination(None if errors else found.config, tuple(errors), tuple(warnings))


def _tls(config: Config, file: str, looking: Looking) -> Findings:
    """Check the files of [tls], unless there is no TLS listener and so nothing reads them."""
    speaks_tls = any(listener.tls for listener in config.listen)
    return check_tls_files(file, config.tls, time.time(), looking) if speaks_tls else Findings()


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
        yield Problem(file, "audit.syslog_ca", f"{ca} contains no usable certificate", "a PEM file of certificates")


def _folder(file: str, key: str, folder: Path) -> Iterator[Problem]:
    """Check that the folder is writable, or can be created."""
    nearest = folder
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        is_folder = nearest.is_dir()
    except OSError as error:  # PermissionError for a parent, or a name that is too long
        yield Problem(file, key, f"{folder} can't be examined: {error.strerror}", "a folder that dicomd may write to")
        return
    if not is_folder:
        yield Problem(file, key, f"{nearest} is not a folder", "a folder that dicomd may write to")
    elif not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        wrong = f"{folder} is not writable" if nearest == folder else f"{folder} can't be created in {nearest}"
        yield Problem(file, key, wrong, "a folder that dicomd may write to")


def _link_to_nowhere(folder: Path) -> Path | None:
    """Return the symbolic link in a path that leads nowhere, if there is one.

    It is no error: a running store may have lost its mount, and a start waits for the mount of a store that it knows.
    """
    with contextlib.suppress(OSError):  # which is an error of its own
        return next((place for place in (folder, *folder.parents) if place.is_symlink() and not place.exists()), None)
    return None


def _warnings(config: Config, file: str) -> Iterator[Problem]:
    if config.storage.durability == "none":
        yield Problem(
            file, "storage.durability", "a power failure can lose instances that were answered with success", '"fsync"'
        )
    if link := _link_to_nowhere(config.storage.root):
        target = f"which leads to {os.path.realpath(link)}, where there is nothing"
        yield Problem(
            file,
            "storage.root",
            f"{link} is a symbolic link {target}",
            "a link to a folder: mount what it leads to, or make it",
        )
    yield from _sent_again(config.storage.layout, file)
    yield from peers.warnings(config, file)


def _sent_again(layout: str, file: str) -> Iterator[Problem]:
    used = layouts.placeholders(layout)
    varying = [f"{{{name}}}" for name in layouts.OF_THE_TRANSFER if name in used]
    if varying:
        names = " or ".join(varying)
        yield Problem(
            file,
            "storage.layout",
            f"an instance that is sent again with another {names} is stored once more, in another place, whatever "
            "storage.duplicates says",
            "only placeholders of the Data Set, unless each is to have a copy of its own",
        )
