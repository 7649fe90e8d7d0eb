"""What of a configuration only the machine can tell: folders, certificates and keys.

The rule: nothing is created or changed by looking. Errors are what would stop the start or a reload; warnings are
what an administrator should know.
"""

import contextlib
import os
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomd.config import peers
from dicomd.config.effect import has_effect, warning
from dicomd.config.keys import without_effect
from dicomd.config.load import outcome, read
from dicomd.config.problems import ConfigError, Problem
from dicomd.config.schema import Config, Tls


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything found out about a configuration file. `config` is None if there are errors."""

    config: Config | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    without_effect: tuple[str, ...]


def examine(path: str | os.PathLike[str]) -> Examination:
    """All findings about a file at once, those of its text and those of the machine. Raises nothing for a bad file."""
    file = os.fspath(path)
    try:
        found = outcome(read(path), file)
    except ConfigError as error:
        return Examination(None, error.problems, (), ())
    errors = [*found.problems]
    errors.extend(problem for problem in check(found.config, file) if problem.key.split(".")[0] not in found.broken)
    errors.extend(_dangerous_without_effect(found.config, file))
    ineffective = () if errors else tuple(without_effect(found.config))
    return Examination(
        None if errors else found.config, tuple(errors), tuple(_warnings(found.config, file)), ineffective
    )


def check(config: Config, file: str = "configuration") -> list[Problem]:
    """What would keep the daemon from starting with this configuration on this machine, as the user who asks."""
    problems = list(_folder(file, "storage.root", config.storage.root))
    for key, folder in (("dicomd.runtime_dir", config.dicomd.runtime_dir), ("audit.spool", config.audit.spool)):
        if folder is not None:
            problems.extend(_folder(file, key, folder))
    if any(listener.tls for listener in config.listen):
        problems.extend(_tls(file, config.tls))
    problems.extend(_audit(file, config))
    return problems


def _audit(file: str, config: Config) -> Iterator[Problem]:
    spool, ca = config.audit.spool, config.audit.syslog_ca
    if spool is not None and spool.is_relative_to(config.storage.root):
        yield Problem(file, "audit.spool", f"{spool} is inside the store", "a folder outside of storage.root")
    if config.audit.syslog is None or ca is None:
        return
    if problem := _unreadable(file, "audit.syslog_ca", ca):
        yield problem
    elif not _holds_certificate(ca):
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


def _tls(file: str, tls: Tls) -> Iterator[Problem]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    readable = [
        (key, path)
        for key, path in (
            ("tls.certificate", tls.certificate),
            ("tls.key", tls.key),
            ("tls.client_ca", tls.client_ca),
            ("tls.crl", tls.crl),
        )
        if path is not None
    ]
    unread = {key: problem for key, path in readable if (problem := _unreadable(file, key, path))}
    yield from unread.values()
    if not unread.keys() & {"tls.certificate", "tls.key"}:
        yield from _pair(file, context, tls)
    for key, path, right in (
        ("tls.client_ca", tls.client_ca, "a PEM file of certificates"),
        ("tls.crl", tls.crl, "a PEM file of certificate revocation lists"),
    ):
        if path is not None and key not in unread:
            try:
                context.load_verify_locations(cafile=path)
            except (ssl.SSLError, OSError):
                yield Problem(file, key, f"{path} holds nothing that can be used", right)


def _unreadable(file: str, key: str, path: Path) -> Problem | None:
    try:
        with path.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        return Problem(file, key, f"{path} can't be read: {error.strerror}", "a PEM file that dicomd may read")
    return None


class _EncryptedKeyError(Exception):
    pass


def _refuse_passphrase() -> str:
    raise _EncryptedKeyError


def _pair(file: str, context: ssl.SSLContext, tls: Tls) -> Iterator[Problem]:
    """The certificate and its key, each for itself and then together."""
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_refuse_passphrase)
    except _EncryptedKeyError:
        yield Problem(file, "tls.key", f"{tls.key} has a passphrase", "a key without one: a daemon has nobody to ask")
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            yield Problem(file, "tls.key", f"{tls.key} doesn't fit {tls.certificate}", "the key of this certificate")
        elif _holds_certificate(tls.certificate):
            yield Problem(file, "tls.key", f"{tls.key} holds no private key", "a PEM file with the private key")
        else:
            yield Problem(
                file, "tls.certificate", f"{tls.certificate} holds no certificate", "a PEM file, the server's first"
            )


def _holds_certificate(path: Path) -> bool:
    with contextlib.suppress(ssl.SSLError, OSError, ValueError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        return True
    return False


def _dangerous_without_effect(config: Config, file: str) -> Iterator[Problem]:
    """What must not be passed over in silence, since somebody relies on it."""
    for index, listener in enumerate(config.listen):
        if listener.tls and not has_effect("listen.tls"):
            yield Problem(file, f"listen[{index}].tls", "this version speaks no TLS", "a listener without it")


def _warnings(config: Config, file: str) -> Iterator[Problem]:
    if config.storage.durability == "none":
        yield Problem(file, "storage.durability", "a power cut can lose instances answered with success", '"fsync"')
    if any(listener.tls for listener in config.listen):
        with contextlib.suppress(OSError):
            if config.tls.key.stat().st_mode & stat.S_IRWXO:
                yield Problem(file, "tls.key", f"{config.tls.key} is open to every user", "mode 0640, group dicomd")
    yield from peers.warnings(config, file)
    told: set[str] = set()
    for path in without_effect(config):
        table, _, name = path.partition(".")
        entries = getattr(config, table)
        used = any(getattr(entry, name) for entry in (entries if isinstance(entries, tuple) else (entries,)))
        if used and (risk := warning(path)) and risk not in told:
            told.add(risk)
            yield Problem(file, path, risk)
