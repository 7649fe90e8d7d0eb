"""Lists the keys that are accepted but have no effect yet.

This is the only list. An entry is a key's path (`dicomd.workers`) or a whole table (`tls`), with a warning for its
user, "" if it is harmless. A change that gives a key its effect removes its entry; the generated documents and
`check-config` follow.
"""

WITHOUT_EFFECT: dict[str, str] = {}

# What the documents add to "a reload applies it"; "" now that SIGHUP reloads.
RELOAD_NOTE = ""


def has_effect(path: str) -> bool:
    """Whether the key or table of this path (without indices) has any effect in this version."""
    return _entry(path) is None


def warning(path: str) -> str:
    """Return the warning for the user of a key without effect, "" if there is none."""
    entry = _entry(path)
    return WITHOUT_EFFECT[entry] if entry is not None else ""


def _entry(path: str) -> str | None:
    return next((entry for entry in (path, path.partition(".")[0]) if entry in WITHOUT_EFFECT), None)
