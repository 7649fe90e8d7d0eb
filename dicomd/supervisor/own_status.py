"""What the supervisor alone knows and shows: the configuration in force, how the last reload ended, where it listens.

The rule it keeps: it fits the memory it is written to, whatever the configuration says of itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from dicomd.config.schema import Config
from dicomd.supervisor.sockets import Sockets, format_address
from dicomd.telemetry.fields import safe_text

_MOST: Final = 64  # listeners' addresses, keys that need a restart
_TEXT: Final = 300  # characters of each


class LastReload(NamedTuple):
    """How the file was taken when it was last read, at the start too; `at` in seconds since 1970."""

    at: float
    successful: bool
    errors: tuple[str, ...]


def own_status(
    config: Config, path: Path, sockets: Sockets, last: LastReload, restart_pending: tuple[str, ...]
) -> dict[str, Any]:
    """As JSON, with times in seconds since 1970."""
    listeners: dict[str, list[str]] = {}
    for listener in sockets.listeners[:_MOST]:
        listeners.setdefault(listener.name, []).append(format_address(listener.sock.getsockname()))
    return {
        "listeners": {name: ", ".join(addresses) for name, addresses in listeners.items()},
        "http": [format_address(sock.getsockname()) for sock in sockets.http[:_MOST]],
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
