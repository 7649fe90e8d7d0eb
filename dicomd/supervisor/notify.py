"""What systemd is told about the daemon's state: the protocol of sd_notify(3), without libsystemd.

Without systemd nothing happens. Nothing here waits: what finds no room in systemd's queue, as while systemd stands
still, is sent with the next message or sign of life, the latest of each kind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping


class Notifier:
    """Talks to the service manager that `environ` names, if it does; takes those names away, so no child uses them."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = f"\0{self._address[1:]}"
        watched = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.pop("WATCHDOG_USEC", "")
        self.watchdog_interval = int(usec) / 2e6 if watched and self._address and usec.isdigit() else 0.0
        """Seconds between two signs of life; 0 where none is asked for."""
        self._alive_at = 0.0
        self._status = ""
        self._unsent: dict[str, bytes] = {}  # messages by their first variable, in the order they are to be sent in

    def ready(self, status: str) -> None:
        """The start, or a reload, is through."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` has to follow, whatever comes of it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The end begins."""
        self._status = status
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`, sent where it differs from the last."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def extend(self, seconds: float) -> None:
        """The start or stop that is under way takes so much longer from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """A sign of life, if one is due. To be called often: what could not be sent is sent then, too."""
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
                except OSError:  # nobody is there to hear it
                    pass
                del self._unsent[kind]
