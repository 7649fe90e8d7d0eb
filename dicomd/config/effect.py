"""Which keys are accepted but do nothing yet.

The rule: this table is the only place that knows. An entry is a key's path (`dicomd.workers`) or a whole table
(`tls`), with what its user should be warned of, "" if it is harmless. Whoever gives a key its effect removes its
entry; the generated documents and `check-config` follow.
"""

WITHOUT_EFFECT: dict[str, str] = {}

# What the documents say beside "a reload applies it"; "" once SIGHUP reloads.
RELOAD_NOTE = ""


def has_effect(path: str) -> bool:
    """Whether this version does anything with the key or table of this path (without indices)."""
    return _entry(path) is None


def warning(path: str) -> str:
    """What the user of a key without effect should know, "" if nothing."""
    entry = _entry(path)
    return WITHOUT_EFFECT[entry] if entry is not None else ""


def _entry(path: str) -> str | None:
    return next((entry for entry in (path, path.partition(".")[0]) if entry in WITHOUT_EFFECT), None)
