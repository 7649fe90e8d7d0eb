"""Holds commits of chosen instances in a daemon's workers, so that a test decides when and in which order they end.

A commit waits just before the sync of its data. Nothing else of the daemon is changed, and it doesn't poll the files
here unless an instance is being committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon
from tests.support.objects import Instance
from tests.support.waiting import wait_until

_PREAMBLE = """
import os, time

def _held(head, held={held!r}):
    return any(uid.encode() in head for uid in os.listdir(held))

def _fdatasync(fd, reached={reached!r}, fdatasync=os.fdatasync):
    try:
        head = os.pread(fd, 1024, 0)
    except OSError:  # no instance: it is open for writing only
        head = b""
    if _held(head):
        for uid in os.listdir({held!r}):
            if uid.encode() in head:
                open(reached + "/" + uid, "w").close()
        while _held(head):
            time.sleep(0.005)
    fdatasync(fd)

os.fdatasync = _fdatasync
"""


class Gate:
    """What is held, in files below `folder`; `daemon` returns daemons that look at them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held, self._reached = folder / "held", folder / "reached"
        for made in (self._held, self._reached):
            made.mkdir(parents=True)

    def daemon(self, overrides: dict[str, Any]) -> Daemon:
        """A daemon, not yet started, whose commits are held here."""
        daemon = Daemon(self._folder, overrides)
        preamble = _PREAMBLE.format(held=str(self._held), reached=str(self._reached))
        (self._folder / "sitecustomize.py").write_text(preamble)
        daemon.environment["PYTHONPATH"] = f"{self._folder}:{Path(__file__).parents[2]}"
        return daemon

    def hold(self, *instances: Instance) -> None:
        """Hold the commits of these instances from now on."""
        for each in instances:
            (self._held / each.sop_instance_uid).touch()

    def release(self, *instances: Instance) -> None:
        """Let the commits of these instances go on."""
        for each in instances:
            (self._held / each.sop_instance_uid).unlink()

    def reached(self) -> set[str]:
        """The SOP Instance UIDs of the instances that have been held so far."""
        return set(os.listdir(self._reached))  # noqa: PTH208 - names are what is wanted

    def wait_reached(self, *instances: Instance) -> None:
        """Wait until the commits of these instances, and of no others, have been held."""
        expected = {each.sop_instance_uid for each in instances}
        wait_until(self.reached, 20, equals=expected, what="other commits have begun")
