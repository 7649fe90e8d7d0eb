"""What only the supervisor knows and shows: the configuration in force, how the last reload ended, where it listens.

Invariant: it fits into the memory to which it is written, whatever the configuration contains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from dicomd.config.schema import Config
from dicomd.supervisor.sockets import Sockets, bound_address
from dicomd.telemetry.fields import safe_text

_MOST: Final = 64  # listeners' addresses, keys that need a restart
_TEXT: Final = 300  # characters of each


class LastReload(NamedTuple):
    """How reading the configuration ended the last time, the start included; `at` is in seconds since the epoch."""

    at: float
    successful: bool
    errors: tuple[str, ...]


def own_status(
    config: Config, path: Path, sockets: Sockets, last: LastReload, restart_pending: tuple[str, ...]
) -> dict[str, Any]:
    """Return it as a JSON object, with times in seconds since the epoch."""
    listeners: dict[str, list[str]] = {}
    for listener in sockets.listeners[:_MOST]:
        listeners.setdefault(listener.name, []).append(bound_address(listener.sock))
    return {
        "listeners": {name: ", ".join(addresses) for name, addresses in listeners.items()},
        "http": [bound_address(sock) for sock in sockets.http[:_MOST]],
        "http_hosts": list(config.http.hosts),
        "access_open": not config.peers,
        "associations_limit": config.limits.associations,
        "root": safe_text(str(config.storage.root.absolute())),
        "reserve_bytes": config.storage.reserve_free,
        "configuration": {
            "path": safe_text(str(path)),
            "last_reload": {
                "time": last.at,
                "successful": last.successful,
                "errors": [safe_text(error, _TEXT) for error in last.errors],
            },
            "restart_pending": [safe_text(key, _TEXT) for key in restart_pending[:_MOST]],
        },
    }
