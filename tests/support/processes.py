"""What the kernel tells of a process that goes on meanwhile."""

import contextlib
from pathlib import Path


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open, by number: a path, or `socket:[…]`, `pipe:[…]`, `anon_inode:…`.

    What is closed between the listing and the look at it is left out. A process that has ended has nothing open.
    """
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found[int(link.name)] = str(link.readlink())
    return found


def exists(pid: int) -> bool:
    """Whether the process runs; one that is only waiting to be reaped doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
