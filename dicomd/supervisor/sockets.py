"""The sockets on which the daemon listens: those that systemd passes to it, and those it binds itself.

Invariant: all of them are opened before the first fork, and they stay the same as long as the daemon runs. If one can't
be opened, the start fails with a sentence that says what to do.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from dicomd.config.schema import Config
from dicomd.formatting import format_address
from dicomd.net.listener import ListeningSocket, bind
from dicomd.supervisor.errors import StartError, described
from dicomd.telemetry.logs import get_logger

HTTP_NAME = "metrics"
"""The FileDescriptorName= of the HTTP endpoint's socket."""
_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
UNITS = {"dicom": "dicomd.socket", "dicom-tls": "dicomd-tls.socket", HTTP_NAME: "dicomd-metrics.socket"}
"""The shipped units that pass sockets with these FileDescriptorNames."""
# Errors in a service that must not open sockets itself (RestrictAddressFamilies=, SystemCallFilter=, IPAddressDeny=).
_FORBIDDEN = frozenset((errno.EAFNOSUPPORT, errno.EPERM, errno.ESOCKTNOSUPPORT))


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets. One name may have several sockets, such as one for each address family."""

    listeners: tuple[ListeningSocket, ...]
    http: tuple[socket.socket, ...]

    def listener_addresses(self) -> dict[str, str]:
        """Where each listener listens, by its name."""
        found: dict[str, list[str]] = {}
        for listener in self.listeners:
            found.setdefault(listener.name, []).append(_bound_address(listener.sock))
        return {name: ", ".join(addresses) for name, addresses in found.items()}

    def http_addresses(self) -> list[str]:
        """Where the HTTP endpoint listens."""
        return [_bound_address(sock) for sock in self.http]

    def close(self) -> None:
        """Close all sockets, or this process's copies of them."""
        self.close_listeners()
        self.close_http()

    def close_listeners(self) -> None:
        """Close the sockets for Associations."""
        for listener in self.listeners:
            listener.sock.close()

    def close_http(self) -> None:
        """Close the sockets of the HTTP endpoint."""
        for sock in self.http:
            sock.close()


def take_inherited(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that the service manager has passed, by name (sd_listen_fds_with_names(3)).

    The variables that announce them are removed from `environ`, because they only concern this process.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    inherited: dict[str, list[socket.socket]] = {}
    if pid != str(os.getpid()) or not count.isdigit():
        return inherited
    for index in range(int(count)):
        fd = _FIRST_INHERITED + index
        name = names[index] if index < len(names) and names[index] else "unknown"
        os.set_inheritable(fd, False)
        try:
            sock = socket.socket(fileno=fd)
        except OSError:  # a pipe or a file
            os.close(fd)
            get_logger().warning("inherited descriptor closed", listener=name, detail="it is not a socket")
            continue
        inherited.setdefault(name, []).append(sock)
    return inherited


def open_sockets(config: Config, inherited: dict[str, list[socket.socket]]) -> Sockets:
    """Match `inherited` with the configuration, close unused sockets, bind missing ones. Raises `StartError`."""
    usable = {name: found for name, socks in inherited.items() if (found := _usable(name, socks))}
    http = usable.pop(HTTP_NAME, [])
    listeners = []
    for entry in config.listen:
        socks = usable.pop(entry.name, [])
        if not socks:
            socks = [_bind(f"listen.{entry.name}", entry.name, entry.address.host, entry.address.port)]
        listeners += [
            ListeningSocket(entry.name, sock, tls=entry.tls, balancers=entry.proxy_protocol) for sock in socks
        ]
    for name, socks in usable.items():
        for sock in socks:
            where = _bound_address(sock)
            sock.close()
            get_logger().warning(
                "inherited descriptor closed", listener=name, detail=f'{where}: there is no [[listen]] named "{name}"'
            )
    if not http:
        http = [_bind("http.address", HTTP_NAME, config.http.address.host, config.http.address.port)]
    return Sockets(tuple(listeners), tuple(http))


def _bound_address(sock: socket.socket) -> str:
    return format_address(*sock.getsockname()[:2])


def _usable(name: str, socks: list[socket.socket]) -> list[socket.socket]:
    """Return the sockets that listen for TCP connections, and close the others."""
    found = []
    for sock in socks:
        tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if tcp and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(sock)
        else:
            sock.close()
            get_logger().warning("inherited descriptor closed", listener=name, detail="it doesn't listen for TCP")
    return found


def _bind(key: str, name: str, host: str, port: int) -> socket.socket:
    try:
        return bind(name, host, port).sock
    except OSError as error:
        advice = _advice(error, name, port)
        raise StartError(f"{key}: can't listen on {format_address(host, port)}: {advice}") from error


def _advice(error: OSError, name: str, port: int) -> str:
    reason = described(OSError(error.errno, os.strerror(error.errno))) if error.errno else str(error)
    unit = UNITS.get(name, f"a socket unit with FileDescriptorName={name}")
    if error.errno == errno.EADDRINUSE:
        return f"{reason} (another program listens there: `ss -ltnp sport = :{port}` names it; or choose another port)"
    if error.errno == errno.EACCES:
        return f"{reason} (ports below 1024 need privileges: choose another, or let systemd open it: enable {unit})"
    if error.errno in _FORBIDDEN:
        return f"{reason} (the service is not allowed to open such sockets: enable {unit}, which passes one to it)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{reason} (no interface has this address: `ip addr` lists those that there are)"
    return reason
