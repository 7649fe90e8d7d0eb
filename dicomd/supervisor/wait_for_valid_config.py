"""Waits for the correction of a broken configuration when the daemon is started with sockets that systemd holds.

While a sender's connection waits in such a socket, systemd restarts the daemon as soon as it has failed. After five
failures in a few seconds, systemd closes the sockets and refuses even `systemctl start` for half a minute
(StartLimitBurst=). Waiting keeps failed starts below that limit, and if the file is corrected meanwhile, the start
continues.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from dicomd.supervisor.notify import Notifier

_CORRECTION_TIMEOUT = 10.0
"""Seconds. That allows three starts in the shipped unit's StartLimitIntervalSec=30s, which leaves two of its five for
an administrator's own."""
_PAUSE = 0.5  # seconds between two readings of the configuration

Found = TypeVar("Found")


def has_inherited_sockets() -> bool:
    """Whether the service manager has passed sockets to this process."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0"


def await_correction(look: Callable[[], Found | None]) -> Found | None:
    """Call `look` until it finds something, for `_CORRECTION_TIMEOUT` seconds at most; return what it found."""
    Notifier(dict(os.environ)).status("The configuration is broken, see the log: waiting for its correction")
    deadline = time.monotonic() + _CORRECTION_TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(_PAUSE, left))
        if (found := look()) is not None:
            return found
    return None
