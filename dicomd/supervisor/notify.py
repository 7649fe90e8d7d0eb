"""Reports the daemon's state to systemd: the protocol of sd_notify(3), without libsystemd.

Without systemd, nothing is sent. Invariant: nothing here waits. If systemd's queue is full, for example while systemd
reloads, the latest message of each kind is kept and sent with the next one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping


class Notifier:
    """Sends to the service manager that `environ` names, if any. Removes the variables, so that no child uses them."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = f"\0{self._address[1:]}"
        watched = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.pop("WATCHDOG_USEC", "")
        self.watchdog_interval = int(usec) / 2e6 if watched and self._address and usec.isdigit() else 0.0
        """Seconds between two watchdog messages; 0 if systemd doesn't expect any."""
        self._alive_at = 0.0
        self._status = ""
        self._unsent: dict[str, bytes] = {}  # messages by their first variable, in the order in which to send them

    def ready(self, status: str) -> None:
        """Report that the start or a reload is complete."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins. `ready` must follow, whether it succeeds or not."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Report that the daemon is stopping."""
        self._status = status
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Send the line that `systemctl status` shows, if it differs from the last one."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def extend(self, seconds: float) -> None:
        """Ask for so many more seconds, from now, for the start or stop that is under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """Send a watchdog message if one is due. Must be called often: it also sends messages that had to be kept."""
        now = time.monotonic()
        self._flush()
        if self.watchdog_interval and now - self._alive_at >= self.watchdog_interval:
            self._alive_at = now
            self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        kind = assignments[0].partition("=")[0]
        self._unsent.pop(kind, None)
        self._unsent[kind] = "\n".join(assignments).encode()
        self._flush()

    def _flush(self) -> None:
        if not self._unsent:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for kind, message in list(self._unsent.items()):
                try:
                    sock.sendto(message, self._address)
                except BlockingIOError:
                    return
                except OSError:  # nobody is listening
                    pass
                del self._unsent[kind]
