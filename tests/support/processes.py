"""Reads the state of running processes from /proc."""

import contextlib
from pathlib import Path


def descriptors(pid: int) -> dict[int, str]:
    """The open descriptors of a process, by number: a path, or `socket:[…]`, `pipe:[…]`, `anon_inode:…`.

    Leaves out descriptors that are closed while they are being listed. A process that has ended has none.
    """
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found[int(link.name)] = str(link.readlink())
    return found


def exists(pid: int) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
