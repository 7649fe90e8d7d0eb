"""Generates the parts of docs/conformance-statement.md that follow from the code. After a change of the code, run:

.venv/bin/python -m tests.unit.docs.generated

The text between `<!-- generated: NAME -->` and `<!-- end: NAME -->` is generated; all other text is written by hand.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path

import dicomd
from dicomd.config import Config, to_toml
from dicomd.config.contexts import resolve
from dicomd.config.registry import Entry, registered
from dicomd.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomd.statuses import Status

STATEMENT = Path(__file__).parents[3] / "docs/conformance-statement.md"

SETTINGS = {
    "dicomd.ae_titles": "Called AE Titles accepted; the empty list accepts any",
    "listen.address": "local address and TCP port of each listener",
    "contexts.sop_classes": "Abstract Syntaxes accepted besides Verification",
    "contexts.transfer_syntaxes": "Transfer Syntaxes accepted, in order of preference",
    "limits.max_pdu": "Maximum Length advertised",
    "limits.associations": "open Associations",
    "limits.associations_per_peer": "open Associations from one host",
    "limits.connections": "open TCP connections, with or without an Association",
    "limits.request_timeout": "ARTIM timer",
    "limits.association_idle": "longest silence between two PDUs of an open Association",
    "limits.minimum_rate": "lowest rate of a peer in the middle of a message, averaged over 30 s",
    "storage.layout": "path of an instance below the store's root",
    "storage.durability": "whether an instance is synced before it is answered with success",
    "storage.duplicates": "what happens to a different Data Set whose SOP Instance UID is already stored",
    "storage.unfiled": "what happens to an instance that can't be checked and filed",
    "storage.reserve_free": "free space below which no instance is accepted",
    "storage.max_object_size": "length of the longest Data Set accepted",
    "dicomd.drain_timeout": "time that open Associations have to finish after a stop",
}

_CORRECT_IT = "Correct the instance; trying again is useless."
_AS_FOR_SPACE = f"As for 0x{Status.OUT_OF_SPACE}."
ADVICE = {
    Status.SUCCESS: "It may delete its copy, as far as its own rules allow.",
    Status.INVALID_SOP_INSTANCE: _CORRECT_IT,
    Status.SOP_CLASS_NOT_SUPPORTED: "Send it in a context of its SOP Class.",
    Status.NOT_AUTHORIZED: "Ask the receiver's operator to permit it.",
    Status.UNRECOGNIZED_OPERATION: "Don't send this request here.",
    Status.MISTYPED_ARGUMENT: "Correct the request.",
    Status.OUT_OF_SPACE: "Try again, with pauses; the receiver recovers by itself.",
    Status.STORE_UNAVAILABLE: _AS_FOR_SPACE,
    Status.BACKEND_UNAVAILABLE: _AS_FOR_SPACE,
    Status.OUT_OF_RESOURCES: _AS_FOR_SPACE,
    Status.OBJECT_TOO_LARGE: "Don't try again before the limit is raised.",
    Status.DATA_SET_MISMATCH: _CORRECT_IT,
    Status.DATA_SET_UNREADABLE: _CORRECT_IT,
    Status.LAYOUT_ELEMENT_INVALID: _CORRECT_IT,
    Status.DUPLICATE_REJECTED: "A person has to find out which one is right.",
    Status.INTERNAL_ERROR: "Try again once, then inform the receiver's operator.",
}
"""What a peer should do that gets a status."""


def version() -> str:
    """The version that the statement describes."""
    return f"Product: dicomd, version {dicomd.__version__}"


def implementation() -> str:
    """The Implementation Class UID and Version Name (PS3.7 §D.3.3.2)."""
    return _table(
        ("item", "value"),
        [
            ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
            ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
        ],
    )


def statuses() -> str:
    """The statuses, by number."""
    rows = [(f"0x{status}", f"`{status.name}`", status.meaning, ADVICE[status]) for status in sorted(Status)]
    return _table(("status", "name in the code", "meaning", "what the peer should do"), rows)


def sop_classes() -> str:
    """The SOP Classes in "all-storage", sorted by name."""
    entries = ((registered()[uid], uid) for uid in resolve(["all-storage"], []).sop_classes or ())
    rows = [(_name(entry), f"`{entry.keyword}`", f"`{uid}`") for entry, uid in sorted(entries)]
    return f"{len(rows)} SOP Classes:\n\n" + _table(("SOP Class", "keyword", "UID"), rows)


def transfer_syntaxes() -> str:
    """The Transfer Syntaxes in "all", in order of preference."""
    found = resolve([], ["all"]).transfer_syntaxes
    rows = [(str(place), _name(registered()[uid]), f"`{uid}`") for place, uid in enumerate(found, start=1)]
    return f"{len(rows)} Transfer Syntaxes:\n\n" + _table(("preference", "Transfer Syntax", "UID"), rows)


def settings() -> str:
    """The configuration keys that change the behaviour towards peers, and their defaults."""
    defaults = tomllib.loads(to_toml(Config()))
    rows = []
    for path, meaning in SETTINGS.items():
        table, key = path.split(".")
        entry = defaults[table][0] if isinstance(defaults[table], list) else defaults[table]
        rows.append((f"`{path}`", f"`{_as_toml(entry[key])}`", meaning))
    return _table(("key", "default", "meaning"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "version": version,
    "implementation": implementation,
    "statuses": statuses,
    "sop-classes": sop_classes,
    "transfer-syntaxes": transfer_syntaxes,
    "settings": settings,
}


def with_parts(text: str) -> str:
    """The text with every generated part brought up to date. Raises LookupError if the marks of a part are missing."""
    for name, part in PARTS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"\n<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise LookupError(f"{begin.strip()} and {end.strip()} must each occur exactly once")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{part()}\n{end}{rest.partition(end)[2]}"
    return text


def _name(entry: Entry) -> str:
    return f"{entry.name} (Retired)" if entry.retired else entry.name


def _as_toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    ruler = "|" + "---|" * len(head)
    return "\n".join([f"| {' | '.join(head)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    STATEMENT.write_text(with_parts(STATEMENT.read_text(encoding="utf-8")), encoding="utf-8")
