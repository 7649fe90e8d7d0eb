"""`dicomd serve`: runs the daemon in the foreground, from opening its sockets to the end of a drained stop.

Invariant: whatever a start can check is checked here, before the first fork, and fails with a sentence that says what
to do. From then on the supervisor runs until a signal ends it.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

import dicomd
from dicomd.config.schema import Config
from dicomd.ipc.metric_files import close_files, use_files
from dicomd.ipc.signals import SignalPipe
from dicomd.store import mounts
from dicomd.store.errors import StoreError
from dicomd.store.filesystem import FileStore
from dicomd.store.last_stores import LastStores
from dicomd.supervisor.errors import StartError, unusable
from dicomd.supervisor.notify import Notifier
from dicomd.supervisor.runtime_dir import RuntimeDir
from dicomd.supervisor.sockets import open_sockets, take_inherited
from dicomd.supervisor.store_settings import store_settings
from dicomd.supervisor.supervisor import Resources, Supervisor
from dicomd.supervisor.tls_setup import ListenersTls, UnusableTlsError, prepare, read_files
from dicomd.telemetry.logs import configure_logging, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.stdlib import route_uncaught
from dicomd.upperlayer.negotiation import quiet_decoders
from dicomd.worker.checksums import warn_of_checksums

__all__ = ["StartError", "serve"]


def serve(config: Config, config_path: Path, warnings: Sequence[str] = ()) -> None:
    """Run until SIGTERM or SIGINT; returns after a drained stop. Raises `StartError`.

    `warnings` are sentences about the configuration, which are logged.
    """
    signals = SignalPipe([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD])
    notifier = Notifier()
    _prepare_process()
    runtime = RuntimeDir(config.dicomd.runtime_dir)
    try:
        use_files(runtime.metrics, "supervisor")
        metrics = Metrics(
            CollectorRegistry(),
            version=dicomd.__version__,
            listeners=[listener.name for listener in config.listen],
            peers=[peer.name for peer in config.peers],
        )
        configure_logging(config.log.format, config.log.level, metrics=metrics)
        route_uncaught()
        inherited = take_inherited()
        store = _start_store(config, metrics)
        metrics.restore_last_stores(LastStores(store.root).read(metrics.peer_names))
        tls = _tls(config)
        sockets = open_sockets(config, inherited)
        resources = Resources(
            config=config,
            config_path=config_path.absolute(),
            tls=tls,
            store=store,
            sockets=sockets,
            runtime=runtime,
            metrics=metrics,
            notifier=notifier,
            signals=signals,
        )
        for warning in warnings:
            get_logger().warning("configuration warning", detail=warning)
        try:
            _supervisor(resources).run()
        finally:
            sockets.close()
    finally:
        signals.ignore()
        configure_logging(config.log.format, config.log.level)
        close_files()
        runtime.remove()


def _supervisor(resources: Resources) -> Supervisor:
    try:
        return Supervisor(resources)
    except OSError as error:
        folder = resources.runtime.path
        raise unusable("dicomd.runtime_dir", folder, error) from error


def _tls(config: Config) -> ListenersTls | None:
    try:
        return prepare(config, read_files(config))
    except UnusableTlsError as error:
        raise StartError(str(error)) from error


def _prepare_process() -> None:
    """Set the documented umask, raise the descriptor limit, and have the decoders not collect peers' invalid UIDs."""
    quiet_decoders()
    os.umask(0o027)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_store(config: Config, metrics: Metrics) -> FileStore:
    """Return the store, checked to be usable; it has nothing open, because only the workers use it."""
    storage = config.storage
    try:
        store = FileStore(storage.root, store_settings(config))
        record = _record_of_stores()
        removed = store.start(mounts.recall(record, store.root) if record else b"")
    except (OSError, StoreError) as error:
        raise unusable("storage.root", storage.root, error) from error
    store.close()
    if store.state.accepting or store.state.space_low:
        _remember(record, store)
    else:
        get_logger().error(
            Message.STORE_UNAVAILABLE,
            root=str(store.root),
            detail=store.state.reason,
            advice=f"Instances are accepted once it is back. To begin a new store here, remove its lines from {record}",
        )
    warn_of_checksums(store)
    if removed:
        metrics.store_recovered_files.labels("removed").inc(removed)
        get_logger().warning("removed temporary files left by a crash", removed=removed)
    return store


def _record_of_stores() -> Path | None:
    """Return the file that records which store is where, in systemd's StateDirectory=, or None without one."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(folder) / "stores" if folder else None


def _remember(record: Path | None, store: FileStore) -> None:
    if record is None:
        return
    try:
        mounts.remember(record, store.root, store.name)
    except OSError as error:
        get_logger().warning(
            "could not record the store: at the next start, a missing mount would be mistaken for an empty store",
            detail=str(record),
            error=error.strerror,
        )
