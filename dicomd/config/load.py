"""Loads a file into a `Config`, or reports everything that is wrong with it.

Invariant: whatever the bytes are, the only exception is `ConfigError`, and it holds all problems at once.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dicomd import layouts
from dicomd.config import keys
from dicomd.config.kinds import toml
from dicomd.config.problems import ConfigError, Problem, UnacceptableError
from dicomd.config.schema import Config
from dicomd.formatting import shown

MAXIMUM_FILE_SIZE = 1024 * 1024  # bytes; a configuration is a few KiB, and parsing takes memory

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of loading a text. If there are problems, `config` has defaults for the tables named in `broken`."""

    config: Config
    problems: tuple[Problem, ...]
    broken: frozenset[str]


def load_config(path: str | os.PathLike[str]) -> Config:
    """Load the configuration from the file. Raises ConfigError with every problem that the text alone shows.

    What depends on the machine (folders, certificates) is checked by `checks.examine`.
    """
    found = validate(read_text(path), os.fspath(path))
    if found.problems:
        raise ConfigError(found.problems)
    return found.config


def read_text(path: str | os.PathLike[str]) -> str:
    """Read the text of a configuration file. Raises ConfigError if it can't be read, is too long or isn't UTF-8."""
    file = os.fspath(path)
    try:
        with Path(path).open("rb") as opened:
            content = opened.read(MAXIMUM_FILE_SIZE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        missing = "`dicomd describe-config --format toml` writes one" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError([Problem(file, "", f"can't be read: {reason}", missing)]) from error
    if len(content) > MAXIMUM_FILE_SIZE:
        raise ConfigError([Problem(file, "", "is too long for a configuration", "at most 1 MiB")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        place = f"line {line}, column {column}"
        raise ConfigError([Problem(file, place, "is not UTF-8", "save the file as UTF-8")]) from error


def validate(text: str, file: str) -> LoadResult:
    """Load the text and collect everything that is wrong with it. Raises ConfigError only if it isn't TOML."""
    raw = _toml(text, file)
    try:
        config, problems, broken = Config.model_validate(raw), [], frozenset[str]()
    except ValidationError as error:
        # pydantic also reports a list as too short if all of its items are wrong
        details = [d for d in error.errors(include_url=False) if d["type"] != "too_short" or not d["input"]]
        problems = [_problem(detail, file, raw) for detail in details]
        broken = frozenset(str(detail["loc"][0]) for detail in details)
        # sound tables are still checked against each other, as if the broken ones were absent
        config = Config.model_validate({name: value for name, value in raw.items() if name not in broken})
    problems.extend(problem for involved, problem in _inconsistencies(config, file) if not involved & broken)
    return LoadResult(config, tuple(problems), broken)


def _toml(text: str, file: str) -> dict[str, Any]:
    try:
        raw = _frozen(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        where = f"line {place[1]}, column {place[2]}" if place and place[1] else "end of the file" if place else ""
        raise ConfigError([Problem(file, where, _PLACE.sub("", message), "TOML 1.0")]) from error
    except (ValueError, RecursionError, OverflowError) as error:  # integers of thousands of digits, deep nesting
        raise ConfigError([Problem(file, "", "a number is too long, or tables are nested too deeply")]) from error
    return raw  # type: ignore[no-any-return]  # a document is a table


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, which are what frozen models hold."""
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _inconsistencies(config: Config, file: str) -> Iterator[tuple[frozenset[str], Problem]]:
    """Yield problems that no single key shows, each with the tables involved."""
    yield from _repeated_names(config, file, "listen")
    yield from _repeated_names(config, file, "peers")
    sockets = [(f"listen[{i}].address", listener.address) for i, listener in enumerate(config.listen)]
    sockets.append(("http.address", config.http.address))
    for i, (path, address) in enumerate(sockets):
        for other, earlier in sockets[:i]:
            if address.port and address.port == earlier.port and _overlap(address.ip, earlier.ip):
                problem = Problem(
                    file, path, f"{address} is already used by {other}, {earlier}", "another port or address"
                )
                yield frozenset({"listen", path.partition(".")[0].partition("[")[0]}), problem
                break
    if not layouts.fits_below(str(config.storage.root), config.storage.layout):
        what = "with storage.root, it can make a path too long for the system"
        yield frozenset({"storage"}), Problem(file, "storage.layout", what, "fewer or shorter parts")
    if config.tls.client_ca is None:
        needing = [key for key in ("client_certificate", "crl") if getattr(config.tls, key) not in {None, "none"}]
        if needing:
            expected = f"the authorities that {' and '.join(needing)} need"
            yield frozenset({"tls"}), Problem(file, "tls.client_ca", "is missing", expected)


def _repeated_names(config: Config, file: str, table: str) -> Iterator[tuple[frozenset[str], Problem]]:
    first: dict[str, int] = {}
    for i, entry in enumerate(getattr(config, table)):
        if (earlier := first.setdefault(entry.name, i)) != i:
            what = f"{shown(entry.name)} is already the name of {table}[{earlier}]"
            yield frozenset({table}), Problem(file, f"{table}[{i}].name", what, "another name")


def _overlap(first: Any, second: Any) -> bool:
    """Whether two IP addresses can't both be bound to one port: they are equal, or one of them stands for all."""
    if first.version == second.version:
        return bool(first == second or first.is_unspecified or second.is_unspecified)
    return bool(max(first, second, key=lambda ip: ip.version).is_unspecified)  # "::" includes IPv4


def _problem(detail: ErrorDetails, file: str, raw: dict[str, Any]) -> Problem:
    path, plain = _paths(detail["loc"])
    what, expected = _wording(detail, plain, raw)
    return Problem(file, path, what, expected)


def _paths(loc: tuple[int | str, ...]) -> tuple[str, str]:
    """Return the path as it is reported, with indices, and the one in the schema, without them."""
    path = plain = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{_shown_key(part)}" if path else _shown_key(part)
            plain += f".{part}" if plain else part
    return path, plain


def _shown_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else shown(name)


def _wording(detail: ErrorDetails, plain: str, raw: dict[str, Any]) -> tuple[str, str]:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    key = keys.key(plain)
    table = next((table for table in keys.tables() if table.name == plain), None)
    if kind == "extra_forbidden":
        return ("unknown table" if isinstance(value, dict) else "unknown key"), _suggestion(plain)
    if isinstance(error := context.get("error"), UnacceptableError):
        return error.what, error.expected
    if table is not None:
        if kind == "too_short":
            return "is empty", f"at least one {table.header}, or leave it out for the default"
        found = (
            "a single table where several may be"
            if isinstance(value, dict)
            else f"{_toml_type(value)} instead of a table"
        )
        return found, f"{table.header} and its keys below it"
    if kind == "missing":
        return "is missing", _expected(key) if key else ""
    if key is not None:
        if kind == "too_short":
            return "is empty", f"the default is {key.default}"
        if kind in {"greater_than_equal", "less_than_equal", "greater_than"}:
            words = {"greater_than_equal": "at least", "less_than_equal": "at most", "greater_than": "more than"}[kind]
            bound = next(context[name] for name in ("ge", "le", "gt") if name in context)
            return f"{shown(_written(raw, detail, value))} is out of range", f"{words} {key.kind.write(bound)}"
        if kind == "literal_error":
            return f"{shown(value)} is not known", str(context["expected"]).replace("'", '"')
        return f"{shown(value)} is {_toml_type(value)}", _expected(key)
    # an entry of an array of tables that isn't a table
    return f"{_toml_type(value)} instead of a table", f"[[{plain}]] and its keys below it"


def _expected(key: keys.KeyDescription) -> str:
    example = key.example or key.default
    return f"{key.kind.name}, such as {example}" if example else key.kind.name


def _written(raw: dict[str, Any], detail: ErrorDetails, value: Any) -> Any:
    """Return the value as it is written in the file; `value` is what it was converted to."""
    found: Any = raw
    try:
        for part in detail["loc"]:
            found = found[part]
    except (KeyError, IndexError, TypeError):
        return value
    return found


def _toml_type(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "text", tuple: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def _suggestion(path: str) -> str:
    """Suggest what an unknown key or table was probably meant to be."""
    table, _, name = path.rpartition(".")
    own = [key.name for found in keys.tables() if found.name == table for key in found.keys]
    candidates = own if table else [found.name for found in keys.tables()]
    if close := get_close_matches(name[:100], candidates, n=1):
        return f"did you mean {toml(close[0])}?"
    elsewhere = [found.header for found in keys.tables() if any(key.name == name for key in found.keys)]
    if elsewhere:
        return f"it belongs in {' or '.join(elsewhere)}"
    return f"expected one of {', '.join(candidates)}" if candidates else ""
