"""Drives dicomd as the service of a machine: administers it, sends to it, and reads its journal, pages and store.

systemctl and the journal are the machine's own; senders run outside and reach the service through the machine's
network namespace.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import waiting
from tests.support.debian import Machine
from tests.support.load import Load
from tests.support.pages import get
from tests.support.part10 import StoredFile, read_part10
from tests.support.raw_peer import RawPeer
from tests.support.waiting import T

WAIT = 60.0
"""Seconds that a test waits for something that should happen soon."""
UNIT = "dicomd.service"
_DROP_INS = "/run/systemd/system"  # not kept when the machine powers off


def wait_until(look: Callable[[], T], deadline: float = WAIT, **options: Any) -> T:
    """Wait as `waiting.wait_until` does, with pauses and a deadline for what is looked at by running a program."""
    return waiting.wait_until(look, deadline, pause=0.1, **options)


class Service:
    """dicomd in a machine."""

    address = ("127.0.0.1", 11112)
    """In the machine's network namespace."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.root = machine.tree / "var/lib/dicomd/store"
        self.config_path = machine.tree / "etc/dicomd/dicomd.toml"
        self._shipped = machine.tree / "root/dicomd.toml.shipped"
        if not self._shipped.exists():
            shutil.copy(self.config_path, self._shipped)
        self._since = ""

    # -- administration -----------------------------------------------------------------------------------------

    def start_afresh(self) -> None:
        """Start the service with the packaged configuration, no drop-ins and an empty store."""
        shutil.copy(self._shipped, self.config_path)
        self.machine.run("sh", "-ec", f"rm -rf {_DROP_INS}/dicomd*.d; systemctl daemon-reload")
        self.machine.run("systemctl", "stop", UNIT, "dicomd.socket", "dicomd-metrics.socket", "dicomd-tls.socket")
        self.machine.run("systemctl", "reset-failed")
        for entry in self.root.iterdir() if self.root.exists() else ():
            if entry.name != ".dicomd":
                shutil.rmtree(entry)
        self._since = self.machine.run("date", "+%F %T.%6N").stdout.strip()
        self.systemctl("start")
        wait_until(self.ready)

    def systemctl(self, verb: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `systemctl VERB dicomd`."""
        return self.machine.run("systemctl", verb, UNIT, *arguments, check=check)

    def drop_in(self, text: str, unit: str = UNIT) -> None:
        """Change the unit, as `systemctl edit --runtime` does."""
        script = 'mkdir -p "$1" && printf %s "$2" >"$1/test.conf" && systemctl daemon-reload'
        self.machine.run("sh", "-ec", script, "sh", f"{_DROP_INS}/{unit}.d", text)

    def configure(self, text: str) -> None:
        """Replace the configuration, to take effect at the next reload or start."""
        self.config_path.write_text(text)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.machine.properties(UNIT, name)[name]

    @property
    def main_pid(self) -> str:
        """The pid of the supervisor inside the machine; "0" if there is none."""
        return self.show("MainPID")

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The service's journal entries since the start of this test that match, such as ``DICOM_CALLING_AET=CT1``."""
        command = ("journalctl", "--unit", UNIT, "--since", self._since, "--output=json", "--all")
        done = self.machine.run(*command, *matches)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def wait_journal(self, *matches: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until at least `count` entries match, and return them."""
        return wait_until(lambda: self.journal(*matches), until=lambda entries: len(entries) >= count)

    # -- pages -------------------------------------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, str]:
        """GET a page of its HTTP endpoint: status and text. Raises OSError."""
        with self.machine.network():
            return get(("127.0.0.1", 11113), path, timeout=WAIT)

    def ready(self) -> bool:
        """Whether /-/ready answers that the service is ready."""
        try:
            return self.get("/-/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def status(self) -> dict[str, Any]:
        """The JSON of /status."""
        found: dict[str, Any] = json.loads(self.get("/status")[1])
        return found

    def workers(self) -> dict[int, str]:
        """The workers by their pids inside the machine, with the state of each."""
        return {worker["pid"]: worker["state"] for worker in self.status()["workers"]}

    # -- senders and stored files ----------------------------------------------------------------------------

    @contextmanager
    def peer(self, **options: Any) -> Iterator[RawPeer]:
        """A connection to the service."""
        with self.machine.network():
            opened = RawPeer(self.address, **options)
        with opened:
            yield opened

    @contextmanager
    def load(self, *, senders: int = 4) -> Iterator[Load]:
        """Senders that store without a pause and retry after failures."""
        load = Load(self, senders=senders)
        with self.machine.network():
            load.start()
        try:
            yield load
        finally:
            load.stop()

    def paths(self) -> list[Path]:
        """Every stored file."""
        return sorted(self.root.rglob("*.dcm"))

    def stored(self) -> list[StoredFile]:
        """The stored instances."""
        return [read_part10(path) for path in self.paths()]

    def look_over(self) -> None:
        """Assert that the journal contains nothing unexpected."""
        bad = [entry for entry in self.journal() if "internal error" in str(entry["MESSAGE"])]
        assert bad == []
        assert not any("Traceback" in str(entry["MESSAGE"]) for entry in self.journal())
