"""Reads the state of running processes from /proc."""

import contextlib
from collections.abc import Iterable
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


def open_sockets(pids: Iterable[int]) -> int:
    """How many sockets these processes have open; one that several share counts for each."""
    return sum(target.startswith("socket:") for pid in pids for target in descriptors(pid).values())


def open_files(pids: Iterable[int]) -> list[str]:
    """The paths of all files that these processes have open."""
    return [target for pid in pids for target in descriptors(pid).values() if target.startswith("/")]


def threads(pids: Iterable[int]) -> int:
    """How many threads these processes have."""
    found = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            found += len(list(Path(f"/proc/{pid}/task").iterdir()))
    return found


def exists(pid: int) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
