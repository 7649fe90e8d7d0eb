"""Telling a store whose mount is missing from one that is about to begin.

The rule: an empty folder where a store has been is a missing mount, and nothing is made in it. What was there is
remembered outside, a line a store (its name, a tab, its root) in a file that a remount doesn't take along; and a mount
point that /etc/fstab lists at or above the root, but where nothing is mounted, is no place to begin either.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

_FSTAB: Final = Path("/etc/fstab")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")  # how fstab(5) writes spaces and tabs in a path


def recall(record: Path, root: Path) -> bytes:
    """Return the name of the store that was at ``root``, b"" if none is recorded. Raises OSError."""
    return _read(record).get(str(root), b"")


def remember(record: Path, root: Path, name: bytes) -> None:
    """Record that the store of this name is at ``root``, durably. Raises OSError."""
    known = _read(record)
    if known.get(str(root)) == name:
        return
    known[str(root)] = name
    draft = record.with_name(f"{record.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.writelines(b"%s\t%s\n" % (what, os.fsencode(where)) for where, what in known.items())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(record)
        fd = os.open(record.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def missing_mount(root: Path, fstab: Path = _FSTAB) -> str:
    """Return the mount point at or above ``root`` that ``fstab`` lists and where nothing is mounted, "" if none."""
    try:
        lines = fstab.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""  # a container has none
    for line in lines:
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        point = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[1]))
        if point.is_absolute() and root.is_relative_to(point) and not point.is_mount():
            return str(point)
    return ""


def _read(record: Path) -> dict[str, bytes]:
    try:
        lines = record.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    known = {}
    for line in lines:
        name, _, root = line.partition(b"\t")
        known[os.fsdecode(root)] = name
    return known
