"""`dicomd serve`: one process in the foreground, from its sockets to its drained end.

The rule it keeps: what can fail at start fails before the first connection is accepted, with a sentence that says what
to do; from then on only a signal ends it, and open Associations are given their time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

import dicomd
from dicomd.config.schema import Config
from dicomd.net.listener import Listener, bind
from dicomd.process.http import HttpEndpoint
from dicomd.process.worker import Worker
from dicomd.store.errors import StoreError
from dicomd.store.filesystem import FileStore
from dicomd.telemetry.logs import configure_logging, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.stdlib import route_uncaught
from dicomd.upperlayer.negotiation import tolerate_odd_uids


class StartError(Exception):
    """The daemon can't start; the message says why, and what would help."""


def serve(config: Config, config_path: Path, warnings: Sequence[str] = ()) -> None:
    """Run until SIGTERM or SIGINT; returns after a drained stop. Raises `StartError`.

    `warnings` are sentences about the configuration for the log.
    """
    began = time.monotonic()
    signals = _Signals()
    _prepare_process()
    metrics = Metrics(
        CollectorRegistry(),
        version=dicomd.__version__,
        listeners=[listener.name for listener in config.listen],
        peers=[peer.name for peer in config.peers],
    )
    constants = {"dicomd_worker": "0", "dicomd_generation": 1}
    configure_logging(config.log.format, config.log.level, metrics=metrics, constants=constants)
    route_uncaught()
    metrics.associations_limit.set(config.limits.associations)
    metrics.access_open.set(1)  # this version knows no rules for peers: whoever can connect may store
    metrics.workers.labels("ready").set(1)
    metrics.reload_finished(successful=True, restart_pending=False)
    store = _start_store(config, metrics)
    listeners = [_listen(entry.name, entry.address.host, entry.address.port) for entry in config.listen]
    worker = Worker(config, listeners, store, metrics)

    def ready() -> tuple[bool, str]:
        reason = worker.unready()
        return not reason, reason or "ready"

    def status() -> dict[str, object]:
        return {"version": dicomd.__version__, "uptime_seconds": int(time.monotonic() - began), "ready": ready()[0]}

    http = _http(config, metrics, ready, status)
    try:
        get_logger().info(
            Message.STARTED,
            version=dicomd.__version__,
            python=platform.python_version(),
            pid=os.getpid(),
            config_path=str(config_path),
            listeners={listener.name: _bound(listener.sock.getsockname()) for listener in listeners},
            http=_bound(http.address),
            root=str(config.storage.root),
            durability=config.storage.durability,
        )
        if not config.peers:
            get_logger().warning("no [[peers]] are configured: every peer that can connect may store")
        for warning in warnings:
            get_logger().warning("configuration warning", detail=warning)
        http.start()
        while not signals.stopping:
            worker.serve_until(signals.wakeup)
            if signals.take_hangup():
                get_logger().warning("SIGHUP has no effect in this version: restart to apply a new configuration")
        signals.on_repeat = worker.hurry
        worker.stop_listening()
        get_logger().info(
            Message.STOPPING,
            signal=signals.stopping,
            associations=worker.open_associations,
            drain_seconds=config.dicomd.drain_timeout,
        )
        aborted = worker.drain()
        detail = {"detail": f"{aborted} connections were aborted"} if aborted else {}
        get_logger().info("stopped", uptime_seconds=int(time.monotonic() - began), **detail)
    finally:
        http.stop()
        if worker.idle:  # else a thread still writes, and what it leaves is swept at the next start
            store.close()
        signals.ignore()  # an impatient one must not turn the end into a death by signal


class _Signals:
    """Turns signals into a readable descriptor.

    The interpreter itself writes to it the moment a signal comes, even when the main thread is just about to wait, so
    none is slept through. Handlers run between any two bytecodes, and therefore only take note.
    """

    def __init__(self) -> None:
        self.wakeup, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stopping = ""
        """The name of the signal that asked for the end, or empty."""
        self.on_repeat: Callable[[], None] = lambda: None
        self._hangup = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)  # full: it is readable anyway

    def ignore(self) -> None:
        """Pay no attention any more, not even while the interpreter winds up, which resets handlers of its own."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def take_hangup(self) -> bool:
        """Whether SIGHUP came since this was asked last; the descriptor is no longer readable on its account."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup, 4096)
        hangup, self._hangup = self._hangup, False
        return hangup

    def _stop(self, number: int, _frame: object) -> None:
        if self.stopping:
            self.on_repeat()
            return
        self.stopping = signal.Signals(number).name

    def _hang_up(self, _number: int, _frame: object) -> None:
        self._hangup = True


def _prepare_process() -> None:
    """Modes as documented, whoever starts it; all descriptors it may have; no memory spent on peers' odd UIDs."""
    tolerate_odd_uids()
    os.umask(0o027)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_store(config: Config, metrics: Metrics) -> FileStore:
    storage = config.storage
    try:
        store = FileStore(
            storage.root.absolute(),
            layout=storage.layout,
            durability=storage.durability,
            duplicates=storage.duplicates,
            reserve_free=storage.reserve_free,
            max_object_size=storage.max_object_size,
        )
        removed = store.start()
    except (OSError, StoreError) as error:
        raise StartError(
            f"storage.root: {storage.root} can't be used: {error} (a folder that {_user()} may write to)"
        ) from error
    if removed:
        metrics.store_recovered_files.labels("removed").inc(removed)
        get_logger().warning("temporary files of a crash removed", removed=removed)
    return store


def _listen(name: str, host: str, port: int) -> Listener:
    try:
        return bind(name, host, port)
    except OSError as error:
        advice = _bind_advice(error, port)
        raise StartError(f"listen.{name}: can't listen on {_bound((host, port))}: {advice}") from error


def _http(
    config: Config,
    metrics: Metrics,
    ready: Callable[[], tuple[bool, str]],
    status: Callable[[], dict[str, object]],
) -> HttpEndpoint:
    address = config.http.address
    try:
        return HttpEndpoint(
            (address.host, address.port),
            registry=metrics.registry,
            healthy=lambda: True,
            ready=ready,
            status=status,
            on_error=lambda: metrics.count_internal_error("process"),
        )
    except OSError as error:
        raise StartError(
            f"http.address: can't listen on {_bound((address.host, address.port))}: {_bind_advice(error, address.port)}"
        ) from error


def _bind_advice(error: OSError, port: int) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EADDRINUSE:
        return f"{reason} (another program listens there: `ss -ltnp sport = :{port}` names it; or choose another port)"
    if error.errno == errno.EACCES:
        return f"{reason} (ports below 1024 need privileges: choose another, or let systemd open the socket)"
    return reason


def _bound(address: tuple[object, ...]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _user() -> str:
    return f"user id {os.geteuid()}" if os.geteuid() else "root"
