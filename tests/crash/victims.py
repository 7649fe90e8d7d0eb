"""Daemons to be killed: chooses and kills processes, and starts the next daemon on the same store.

Invariant: every process that is killed belongs to these daemons, and a process that outlives its supervisor is
detected.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path

from tests.crash.verdict import temporary_files
from tests.support.daemon import STOP_DEADLINE, Daemon
from tests.support.processes import descriptors
from tests.support.waiting import wait_until

VICTIMS = {"worker": 5, "all workers": 1, "supervisor": 2, "everything": 3}
"""How often each occurs in a round of kills; each round is shuffled anew."""
VICTIMS_A_ROUND = sum(VICTIMS.values())


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, found_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(found_group) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


class Victims:
    """The successive daemons of one store; workers of a dead supervisor may still be storing."""

    def __init__(
        self, folder: Path, *, duplicates: str = "keep-both", unfiled: str = "refuse", preamble: str = ""
    ) -> None:
        """`preamble` is Python code that each process of these daemons runs first."""
        self.root = folder / "store"
        self._folder, self._preamble = folder, preamble
        self._storage = {"root": str(self.root), "duplicates": duplicates, "unfiled": unfiled}
        self._begun = 0
        self._dead: list[Daemon] = []
        self.kills: Counter[str] = Counter()
        self.swept = 0
        self.complaints: list[str] = []
        self.daemon = self._next()

    def address(self) -> tuple[str, int]:
        return self.daemon.address

    def kill(self, victim: str) -> None:
        self.kills[victim] += 1
        if victim == "everything":
            self._kill_everything()
        elif victim == "supervisor":
            os.kill(self.daemon.pid, signal.SIGKILL)
            self._dead.append(self.daemon)
        else:
            workers = self._workers()
            for pid in workers if victim == "all workers" else workers[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Start the next daemon, which must remove everything that dead processes left in the temporary folder."""
        alone = not any(members(dead.pid) for dead in self._dead)
        left = temporary_files(self.root) if alone else set()
        self.daemon = self._next()
        assert not left & temporary_files(self.root)
        self.swept += len(left)

    def end(self) -> None:
        """Stop the last daemon in the ordinary way, and check that none has left anything behind."""
        self.daemon.stop()
        self._dead.append(self.daemon)
        self._on_exit()

    def abandon(self) -> None:
        """Kill all processes, whatever state they are in."""
        self._kill_everything()

    def _next(self) -> Daemon:
        self._begun += 1
        folder = self._folder / f"dicomd-{self._begun}"
        folder.mkdir()
        daemon = Daemon(
            folder,
            {
                "dicomd": {"workers": 2, "drain_timeout": "2s"},
                "storage": self._storage,
                "log": {"level": "info", "instances": False},
            },
        )
        if self._preamble:
            (folder / "sitecustomize.py").write_text(self._preamble)
            daemon.environment["PYTHONPATH"] = f"{folder}:{Path(__file__).parents[2]}"
        try:
            daemon.start()
        except BaseException:
            if daemon.started:
                daemon.kill()
            raise
        return daemon

    def _workers(self) -> list[int]:
        """The processes of the current daemon that have an instance or its lock open, busiest first."""
        found = []
        for pid in members(self.daemon.pid):
            targets = descriptors(pid).values()
            if opened := sum("/.dicomd/" in target or target.endswith(".dcm") for target in targets):
                found.append((opened, pid))
        return [pid for _opened, pid in sorted(found, reverse=True) if pid != self.daemon.pid]

    def _kill_everything(self) -> None:
        for daemon in (*self._dead, self.daemon):
            for pid in members(daemon.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.daemon not in self._dead:
            self._dead.append(self.daemon)
        self._on_exit()

    def _on_exit(self) -> None:
        """Reap dead processes, check that none outlives its supervisor, and keep their complaints."""
        for daemon in self._dead:
            daemon.wait()
            wait_until(
                lambda supervisor=daemon.pid: members(supervisor),
                STOP_DEADLINE,
                equals=[],
                what="processes outlive their supervisor",
            )
            self.complaints += daemon.complaints()
        self._dead.clear()
