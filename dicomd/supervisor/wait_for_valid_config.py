"""A broken configuration at a start whose sockets systemd holds: there is a little time to correct it.

Why: while a sender waits in the sockets, systemd starts the daemon again as soon as it has failed. Five failures in a
few seconds, and systemd closes the sockets and refuses even `systemctl start` for half a minute (StartLimitBurst=).
The rule: failed starts come more slowly than that limit counts, and one that is corrected meanwhile goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from dicomd.supervisor.notify import Notifier

PATIENCE = 10.0
"""Seconds: three starts in the StartLimitIntervalSec=30s of the shipped unit leave two of its five for people."""
_PAUSE = 0.5  # seconds between two looks at the configuration

Found = TypeVar("Found")


def has_inherited_sockets(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the service manager has handed sockets to this process."""
    return environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "0") != "0"


def await_correction(
    look: Callable[[], Found | None], *, patience: float = PATIENCE, environ: Mapping[str, str] = os.environ
) -> Found | None:
    """Call `look` again and again until it finds something or `patience` seconds are over; return what it found."""
    Notifier(dict(environ)).status("The configuration is broken, see the log: waiting for its correction")
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(_PAUSE, left))
        if (found := look()) is not None:
            return found
    return None
