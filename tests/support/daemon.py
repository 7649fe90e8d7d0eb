"""Runs the real daemon for a test: starts it on free ports, reads its log and pages, stops it and checks its health.

Invariant: every wait has a deadline, the daemon is only ever ended through the process held here, and a test passes
only if it leaves the daemon healthy: `check_health` finds tracebacks, and leaked temporary files, descriptors and
threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

import tomlkit
from prometheus_client.parser import text_string_to_metric_families

from tests.support.pages import get
from tests.support.part10 import StoredFile, read_part10
from tests.support.processes import open_files, open_sockets, threads
from tests.support.waiting import wait_until

START_DEADLINE = 30.0
"""Seconds: enough to import everything on a busy machine with cold caches."""
STOP_DEADLINE = 20.0
WAIT = 20.0
"""Seconds that a test waits for something that should happen immediately."""
_PIPE = 1 << 19
"""Bytes of its log that wait for this process. The daemon loses lines rather than wait for a reader for long, and these
readers share one interpreter lock with the senders of the test."""

Record = dict[str, Any]


class DaemonFailed(AssertionError):
    """The daemon failed at something that every test relies on; the message contains its output."""


class Daemon:
    """One daemon with its configuration, store and log in `folder`.

    A context manager that starts it and, at the end, checks its health and stops it; none is left running, whatever
    happens. A test may also stop, kill and start it itself in between.

    `overrides` are merged into a default configuration for tests: one listener and the HTTP endpoint on free ports of
    127.0.0.1, JSON log, no reserve of free space.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, Any] | None = None) -> None:
        self.root = folder / "store"
        self.config_path = folder / "dicomd.toml"
        config: dict[str, Any] = {
            "dicomd": {"drain_timeout": "10s"},
            "listen": [{"name": "dicom", "address": "127.0.0.1:0"}],
            "storage": {"root": str(self.root), "reserve_free": "0B"},
            "http": {"address": "127.0.0.1:0"},
            "log": {"format": "json", "level": "debug"},
        }
        config = _merged(config, overrides or {})
        self.root = Path(config["storage"]["root"])
        self._config = config
        self.config_path.write_text(tomlkit.dumps(config))
        self.launcher: list[str] = []
        """A program that starts the daemon, for tests of what it inherits from its parent."""
        self.environment: dict[str, str] = {}
        """Environment variables in addition to those of the tests."""
        self.inherited: tuple[int, ...] = ()
        """Descriptors that the daemon inherits."""
        self.records: list[Record] = []
        self.output: list[str] = []
        """Every line of stdout and stderr, as it was written."""
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self.address = self.http = ("", 0)
        self._listeners: dict[str, str] = {}
        self._idle_sockets = self._idle_threads = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.running:
                self.check_health()
                self.stop()
        finally:
            self._end()
        if kind is None and (complaints := self.complaints()):
            raise self._failed("complaints in its log:\n" + "\n".join(complaints[:10]))

    def _end(self) -> None:
        if self.running:
            self.kill()

    # -- lifecycle --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it is ready. Raises `DaemonFailed`."""
        seen = len(self.records)
        self._process = subprocess.Popen(
            [*self.launcher, sys.executable, "-X", "dev", "-m", "dicomd", "serve", "--config", str(self.config_path)],
            env=os.environ | self.environment,
            pass_fds=self.inherited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=_PIPE,
            cwd=self.config_path.parent,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), name="daemon output")
            for stream in (self._process.stdout, self._process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        started = self.wait_for(lambda record: record["event"] == "started", deadline=START_DEADLINE, since=seen)
        self._listeners = started["listeners"]
        self.address = _address(next(iter(self._listeners.values())))
        self.http = _address(started["http"])
        wait_until(lambda: self.ready() or not self.running, START_DEADLINE, pause=0.02, failed=self._failed)
        if not self.running:
            raise self._failed("it ended before it was ready")
        # One more thread may still be starting, because readiness is reported first.
        pids = self.pids()
        self._idle_sockets, self._idle_threads = open_sockets(pids), threads(pids) + 1

    def configure(self, **overrides: Any) -> None:
        """Write the configuration with these tables changed, to take effect at the next reload or start."""
        self._config = _merged(self._config, overrides)
        self.config_path.write_text(tomlkit.dumps(self._config))

    def reload(self) -> Record:
        """Send SIGHUP and return the log record that reports the outcome."""
        seen = len(self.records)
        self.signal(signal.SIGHUP)
        return self.wait_for(
            lambda record: record["event"] in ("config applied", "config rejected"), since=seen, deadline=START_DEADLINE
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> list[int]:
        """All processes of the daemon: the supervisor first, then the exporter and the workers."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            children = ""
        return [self.pid, *(int(pid) for pid in children.split())]

    def worker_pids(self) -> dict[int, str]:
        """The pids and states of the workers, as /status shows them, except for those that have no pid yet.

        A worker with pid 0 is about to start. Signalling pid 0 would signal the sender's own process group.
        """
        return {worker["pid"]: worker["state"] for worker in self.status()["workers"] if worker["pid"]}

    def status(self) -> Record:
        """The JSON of /status."""
        status: Record = json.loads(self.get("/status")[1])
        return status

    def connections(self) -> int:
        """How many connections its workers have open."""
        return sum(worker["connections"] for worker in self.status()["workers"])

    def listener(self, name: str) -> tuple[str, int]:
        """The address on which the listener of this name accepts connections."""
        return _address(self._listeners[name])

    @property
    def host(self) -> str:
        return self.address[0]

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Wait until it ends and return its exit status. At the deadline, kill it and raise `DaemonFailed`."""
        assert self._process is not None
        try:
            status = self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failed(f"it did not end within {deadline:g} s") from None
        for reader in self._readers:
            reader.join(WAIT)
        return status

    def stop(self, deadline: float = STOP_DEADLINE) -> None:
        """Send SIGTERM and require exit status 0."""
        self.signal(signal.SIGTERM)
        status = self.wait(deadline)
        if status:
            raise self._failed(f"exit status {status} after SIGTERM")

    def kill(self) -> None:
        """Send SIGKILL to all its processes, which end as in a crash of the machine."""
        assert self._process is not None
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(WAIT)

    # -- log and pages ----------------------------------------------------------------------------------------------

    def wait_for(self, predicate: Callable[[Record], bool], *, deadline: float = WAIT, since: int = 0) -> Record:
        """Return the first log record, from number `since` on, that fulfils `predicate`. Raises `DaemonFailed`."""
        ends = time.monotonic() + deadline
        with self._changed:
            while True:
                for record in self.records[since:]:
                    if predicate(record):
                        return record
                since = len(self.records)
                left = ends - time.monotonic()
                alive = any(reader.is_alive() for reader in self._readers)
                if left <= 0 or not alive:
                    raise self._failed(
                        f"no such log record within {deadline:g} s" if alive else "it ended without such a log record"
                    )
                self._changed.wait(min(left, 0.5))

    def add_record(self, line: str, record: Record) -> None:
        """Add a log record, read from `line`. Also called for logs that arrive by other ways than stderr."""
        with self._changed:
            self.output.append(line)
            self.records.append(record)
            self._changed.notify_all()

    def logged(self, event: str, **fields: Any) -> list[Record]:
        """The records logged so far for an event, with these fields."""
        with self._changed:
            return [r for r in self.records if r["event"] == event and fields.items() <= r.items()]

    def wait_logged(self, event: str, *, deadline: float = WAIT, **fields: Any) -> Record:
        """Wait for the first record of an event with these fields, and return it."""
        return self.wait_for(lambda r: r["event"] == event and fields.items() <= r.items(), deadline=deadline)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """GET a page of its HTTP endpoint: status and text."""
        return get(self.http, path, timeout=WAIT, headers=headers)

    def ready(self) -> bool:
        """Whether /-/ready answers that the daemon is ready; False also if nothing answers."""
        try:
            return self.get("/-/ready")[0] == 200
        except OSError:
            return False

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples of /metrics: (name, labels) → value."""
        status, text = self.get("/metrics")
        assert status == 200, text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample. Raises KeyError if there is none."""
        return self.metrics()[name, frozenset(labels.items())]

    def wait_metric(self, name: str, value: float, **labels: str) -> None:
        """Wait until a sample has a value, since some metrics are only updated after the answer has been sent."""
        sample, what = (name, frozenset(labels.items())), f"{name}{labels} has another value"
        wait_until(lambda: self.metrics().get(sample), WAIT, equals=value, what=what, pause=0.02, failed=self._failed)

    # -- files ---------------------------------------------------------------------------------------------

    def paths(self) -> list[Path]:
        """Every file of the store outside .dicomd, of whatever kind."""
        return sorted(
            p for p in self.root.rglob("*") if p.is_file() and ".dicomd" not in p.relative_to(self.root).parts
        )

    def stored(self, sop_instance_uid: str = "") -> list[StoredFile]:
        """All stored instances, or only those with a SOP Instance UID."""
        files = [read_part10(path) for path in self.paths()]
        return [file for file in files if not sop_instance_uid or file.sop_instance_uid == sop_instance_uid]

    def empty(self) -> None:
        """Delete everything stored, as an operator's pruning job may at any time (CONTRACT 4)."""
        for entry in self.root.iterdir():
            if entry.is_dir() and entry.name != ".dicomd":
                shutil.rmtree(entry)
            elif entry.is_file():
                entry.unlink()

    def temporary_files(self) -> list[Path]:
        """The files in the folder for temporary files."""
        return [path for path in (self.root / ".dicomd" / "tmp").rglob("*") if path.is_file()]

    def unfinished_files(self) -> list[Path]:
        """The temporary files that hold a Data Set under way: larger than what the store writes as a test of itself."""
        found = []
        for path in self.temporary_files():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if path.stat().st_size > 4096:
                    found.append(path)
        return found

    def wait_no_temporary_files(self) -> None:
        """Wait until no temporary files are left: they are removed only after the answer has been sent."""
        wait_until(self.temporary_files, WAIT, equals=[], what="temporary files were left", failed=self._failed)

    # -- health ----------------------------------------------------------------------------------------------

    def check_health(self) -> None:
        """Raise `DaemonFailed` if the idle daemon has leaked resources, or has logged anything unexpected."""
        wait_until(self._trouble, WAIT, equals=[], what="it is not healthy", pause=0.02, failed=self._failed)

    def _trouble(self) -> list[str]:
        if not self.running:
            return ["it is not running"]
        trouble = []
        pids = self.pids()
        if (sockets := open_sockets(pids)) > self._idle_sockets:
            trouble.append(f"{sockets} open sockets, {self._idle_sockets} at the start")
        if (running := threads(pids)) > self._idle_threads:
            trouble.append(f"{running} threads, at most {self._idle_threads} belong there")
        if files := [f for f in open_files(pids) if f.endswith(".dcm") or "/.dicomd/tmp/" in f]:
            trouble.append(f"instances still open: {files}")
        if left := self.temporary_files():
            trouble.append(f"temporary files: {left}")
        return trouble + self.complaints()

    def complaints(self) -> list[str]:
        """Log records that must never appear."""
        found = [line for line in self.output if "Traceback" in line or "ResourceWarning" in line]
        return found + [
            str(r) for r in self.records if r["event"] in ("internal error", "not JSON") or "unknown_keys" in r
        ]

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="backslashreplace").rstrip("\n")
                try:
                    record = json.loads(line)
                except ValueError:
                    record = {"event": "not JSON", "line": line}
                self.add_record(line, record)
        with self._changed:
            self._changed.notify_all()

    def _failed(self, why: str) -> DaemonFailed:
        return DaemonFailed(f"dicomd: {why}\n" + "\n".join(self.output[-40:]))


def free_port() -> int:
    """A port of 127.0.0.1 that is free at the moment, for programs that can't choose a free port themselves."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _merged(base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, Mapping) and key in merged else value
    return merged
