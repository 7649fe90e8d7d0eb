"""A stand-in for journald: receives datagrams of its native protocol for a test, or leaves them unread on request.

The daemon finds it at journald's usual path, in a mount namespace made by `launcher`, which needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from dicomd.telemetry.messages import Message
from tests.support.daemon import Daemon, Record

_EVENTS = {message.message_id: message.value for message in Message}
_MOUNT = (
    'mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$0" /run/systemd/journal && exec "$@"'
)


class Journal:
    """A context manager; `entries` are the fields of each entry so far, `told` is called with each new one."""

    def __init__(self, folder: Path, told: Callable[[dict[str, str]], None] = lambda entry: None) -> None:
        self.path = folder / "socket"
        self.entries: list[dict[str, str]] = []
        self._told = told
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._reads = threading.Event()
        self._reads.set()
        self._reader = threading.Thread(target=self._read, name="journal")

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reads.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self._socket.close()

    def stand_still(self) -> None:
        """Stop reading; a datagram that is being received is still read."""
        self._reads.clear()

    def go_on(self) -> None:
        """Resume reading."""
        self._reads.set()

    def _read(self) -> None:
        while True:
            self._reads.wait()
            data = self._socket.recv(1 << 20)
            if not data:
                return
            entry = decode(data)
            self.entries.append(entry)
            self._told(entry)


def decode(data: bytes) -> dict[str, str]:
    """The fields of an entry."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def launcher(folder: Path) -> list[str]:
    """A program that starts another with that folder's journal socket in place. Skips if privileges are missing."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (Debian package util-linux)")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, str(folder)]


def as_record(entry: dict[str, str]) -> Record:
    """The record that the JSON log would contain for an entry."""
    record: Record = {name.lower().removeprefix("dicomd_"): value for name, value in entry.items()}
    record["event"] = _EVENTS.get(entry.get("MESSAGE_ID", ""), entry["MESSAGE"])
    if "listeners" in record:
        record["listeners"] = json.loads(record["listeners"])
    return record


def tell(daemon: Daemon) -> Callable[[dict[str, str]], None]:
    """A callback that adds the journal's entries to the daemon's records."""

    def told(entry: dict[str, str]) -> None:
        daemon.add_record(json.dumps(entry), as_record(entry))

    return told
