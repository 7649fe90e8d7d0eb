"""The supervisor: one thread with one loop that starts workers, replaces them, and puts new configurations into force.

Invariant: it serves no peers and waits in only one place, so nothing that a peer, a worker or a client of the control
socket does or fails to do can stop it. A reload works as in nginx: validate everything, start a new generation, and
only when all its workers are ready let the old one retire.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicomd
from dicomd import unready
from dicomd.config.schema import Config
from dicomd.ipc.shared_state import SharedState
from dicomd.ipc.signals import SignalPipe
from dicomd.monitoring.exporter import Exporter
from dicomd.monitoring.status import status
from dicomd.store.filesystem import FileStore
from dicomd.supervisor.children import Children
from dicomd.supervisor.control import Answer, Caller, ControlSocket
from dicomd.supervisor.errors import StartError
from dicomd.supervisor.notify import Notifier
from dicomd.supervisor.process_manager import Generation, ProcessManager
from dicomd.supervisor.reload import HELD_BY_THE_KERNEL, Reloads
from dicomd.supervisor.reread_config import MAX_ERRORS, Reading
from dicomd.supervisor.runtime_dir import RuntimeDir
from dicomd.supervisor.sockets import Sockets
from dicomd.supervisor.store_settings import store_settings
from dicomd.supervisor.tls_setup import ExpiryWatch, ListenersTls
from dicomd.supervisor.validation import Validation
from dicomd.telemetry.logs import configure_logging, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.worker.process import WorkerSpec

_TURN = 1.0  # seconds between two turns of the loop, at most
_STOOD_STILL = 5.0  # after so many seconds without a turn, the supervisor itself or the machine must have been stopped
_STATUS_EVERY = 5.0  # seconds
_EXTENSION = 15.0  # seconds for which systemd is asked repeatedly while Associations end


@dataclass(frozen=True, slots=True)
class Resources:
    """What the supervisor is given: everything whose creation could make a start fail."""

    config: Config
    config_path: Path
    tls: ListenersTls | None
    store: FileStore
    sockets: Sockets
    runtime: RuntimeDir
    metrics: Metrics
    notifier: Notifier
    signals: SignalPipe


class Supervisor:
    """Runs the daemon; see `run`. Raises OSError if the control socket can't be created."""

    def __init__(self, resources: Resources) -> None:
        self._given = resources
        self._config = resources.config
        self._began = self._last_turn = time.monotonic()
        self._shared_state = SharedState()
        self._children = Children()
        self._control = ControlSocket(resources.runtime.path, self._answer)
        signals = resources.signals
        runtime = resources.runtime
        self._children.private += [signals.close, self._control.close, runtime.close]
        exporter = Exporter(
            resources.sockets.http, self._shared_state, runtime.metrics, resources.config.log, began=self._began
        )
        self._processes = ProcessManager(
            self._shared_state, self._children, resources.sockets, resources.metrics, runtime.metrics, exporter
        )
        self._number = 0
        self._starting: Generation | None = None
        self._reloads = Reloads(self, self._processes)
        self._pending: tuple[str, ...] = ()
        self._expiry = ExpiryWatch(resources.metrics)
        self._stopping = False
        self._failure = ""
        self._aborted = 0
        self._shown_at = 0.0

    def run(self) -> None:
        """Run until a signal orders a stop and the last Association has ended. Raises `StartError`."""
        self._shared_state.beat()
        self._starting = self._start_generation(self._config, self._given.store, self._given.tls)
        self._processes.tend(time.monotonic())
        while self._processes.everybody() or not self._stopping:
            self._wait()
            self._turn()
            if left := self._processes.left_behind(time.monotonic()):
                for child in self._processes.everybody():  # closing its channel makes the exporter exit
                    child.channel.close()
                get_logger().error(
                    "workers are left behind",
                    detail=f"{', '.join(str(child.pid) for child in left)}: {HELD_BY_THE_KERNEL}",
                )
                break
        self._control.remove()
        if self._failure:
            raise StartError(self._failure)
        detail = {"detail": f"{self._aborted} connections were aborted"} if self._aborted else {}
        get_logger().info("stopped", uptime_seconds=int(time.monotonic() - self._began), **detail)

    # -- the loop --------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._given.signals.fileno(), select.POLLIN)
        for channel in self._processes.awaited():
            poller.register(channel.fileno(), select.POLLIN)
        for fd, events in self._control.sources():
            poller.register(fd, events)
        for fd in self._reloads.sources():
            poller.register(fd, select.POLLIN)
        turn = min(_TURN, self._given.notifier.watchdog_interval or _TURN)
        poller.poll(1000 * max(0.0, min(turn, self._processes.next_due() - time.monotonic())))

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._last_turn > _STOOD_STILL:
            self._children.forgive_silence(now)
        self._last_turn = now
        self._shared_state.beat()
        self._given.notifier.alive()
        for number in self._given.signals.take():
            self._take_signal(number)
        if self._stopping:
            self._aborted = max(self._aborted, self._processes.aborted)
        self._processes.tend(now)
        if self._stopping:
            self._go_on_stopping(now)
        else:
            self._look_at_start()
            self._expiry.tend(now)
        self._control.tend(now)
        if not self._stopping and self._starting is None:
            self._reloads.tend(now)
        self._tell(now)

    def _take_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._reloads.ask()
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping:
                self._processes.hurry()
            else:
                self._stop(number.name)

    # -- start and stop --------------------------------------------------------------------------------------------

    def _start_generation(self, config: Config, store: FileStore, tls: ListenersTls | None) -> Generation:
        self._number += 1
        context = tls.context if tls is not None else None
        spec = WorkerSpec(config, self._given.sockets.listeners, store, self._given.runtime.metrics, context)
        return self._processes.begin(self._number, spec, config.dicomd.workers or len(os.sched_getaffinity(0)))

    def _look_at_start(self) -> None:
        generation = self._starting
        if generation is None:
            return
        if generation.ready:
            self._starting = None
            self._processes.serve(generation)
            self._in_force(self._config, self._given.tls, ())
            self._log_started(generation)
            self._given.notifier.ready(self._status())
        elif generation.hopeless:
            self._failure = f"the workers die before they are ready: {generation.last_death} (the log says why)"
            self._stopping = self._shared_state.stopping = True
            self._processes.give_up(generation)

    def _log_started(self, generation: Generation) -> None:
        given = self._given
        get_logger().info(
            Message.STARTED,
            version=dicomd.__version__,
            python=platform.python_version(),
            pid=os.getpid(),
            config_path=str(given.config_path),
            listeners=given.sockets.listener_addresses(),
            http=", ".join(given.sockets.http_addresses()),
            root=str(self._config.storage.root),
            durability=self._config.storage.durability,
            workers=len(generation.child_slots),
            dicomd_generation=generation.number,
        )

    def _stop(self, name: str) -> None:
        self._stopping = self._shared_state.stopping = True
        self._given.notifier.stopping("Stopping, open Associations may finish")
        self._given.notifier.extend(_EXTENSION)  # at once, because TimeoutStopSec= may be shorter than _STATUS_EVERY
        get_logger().info(
            Message.STOPPING,
            signal=name,
            associations=self._shared_state.total_associations(),
            drain_seconds=self._config.dicomd.drain_timeout,
        )
        self._given.sockets.close_listeners()
        self._processes.stop(self._config.dicomd.drain_timeout)
        self._reloads.stop()

    def _go_on_stopping(self, now: float) -> None:
        if not self._processes.workers():
            self._processes.stop_exporter()
        if now - self._shown_at >= _STATUS_EVERY:
            self._given.notifier.extend(_EXTENSION)

    # -- reload ----------------------------------------------------------------------------------------------------

    def validate(self) -> Validation:
        """Begin to validate the file. Raises OSError if no process can be started for that."""
        given = self._given
        return Validation(self._children, given.sockets, given.config_path, self._config)

    @property
    def drain_timeout(self) -> float:
        """dicomd.drain_timeout of the configuration in force, in seconds."""
        return self._config.dicomd.drain_timeout

    def reloading(self) -> None:
        """Report that a reload begins; a call of `apply` or `reject` follows."""
        self._given.notifier.reloading()

    def begin(self, config: Config, tls: ListenersTls | None) -> Generation:
        """Start the workers of a new configuration."""
        store = self._given.store.successor(store_settings(config))
        generation = self._start_generation(config, store, tls)
        self._processes.tend(time.monotonic())
        return generation

    def apply(self, reading: Reading, config: Config, tls: ListenersTls | None, generation: Generation) -> None:
        """Put into force the configuration of a generation that now serves."""
        self._config = config
        self._in_force(config, tls, reading.pending)
        configure_logging(config.log.format, config.log.level, metrics=self._given.metrics)
        for warning in reading.warnings:
            get_logger().warning("configuration warning", detail=warning)
        get_logger().info(
            Message.CONFIG_APPLIED,
            dicomd_generation=generation.number,
            config_path=str(self._given.config_path),
            workers=len(generation.child_slots),
            restart_pending=list(reading.pending),
        )
        self._given.notifier.ready(self._status())

    def reject(self, errors: tuple[str, ...]) -> None:
        """Report that nothing has changed, for the reasons in `errors`."""
        self._given.metrics.reload_finished(successful=False, restart_pending=bool(self._pending))
        self._publish(successful=False, errors=errors[:MAX_ERRORS])
        get_logger().error(
            Message.CONFIG_REJECTED,
            dicomd_generation=self._shared_state.generation,
            config_path=str(self._given.config_path),
            config_error_count=len(errors),
            config_errors=list(errors[:MAX_ERRORS]),
        )
        self._given.notifier.ready(f"Configuration rejected, {self._status()[0].lower()}{self._status()[1:]}")

    def _in_force(self, config: Config, tls: ListenersTls | None, pending: tuple[str, ...]) -> None:
        metrics = self._given.metrics
        self._pending = pending
        metrics.associations_limit.set(config.limits.associations)
        metrics.access_open.set(not config.peers)
        if not config.peers:
            get_logger().warning("no [[peers]] are configured: every peer that can connect may store")
        metrics.reload_finished(successful=True, restart_pending=bool(pending))
        self._expiry.in_force(tls)
        self._publish(successful=True)

    def _publish(self, *, successful: bool, errors: tuple[str, ...] = ()) -> None:
        config = self._config
        sockets = self._given.sockets
        self._shared_state.status.publish(
            {
                "listeners": sockets.listener_addresses(),
                "http": sockets.http_addresses(),
                "http_hosts": list(config.http.hosts),
                "access_open": not config.peers,
                "associations_limit": config.limits.associations,
                "root": str(config.storage.root.absolute()),
                "layout": config.storage.layout,
                "reserve_bytes": config.storage.reserve_free,
                "configuration": {
                    "path": str(self._given.config_path),
                    "last_reload": {"time": time.time(), "successful": successful, "errors": list(errors)},
                    "restart_pending": list(self._pending),
                },
            }
        )

    # -- answers and status ----------------------------------------------------------------------------------------

    def _answer(self, request: dict[str, Any], caller: Caller) -> None:
        match request:
            case {"command": "maintenance", "on": bool(wanted)}:
                caller.answer(self._maintain(wanted=wanted))
            case {"command": "status"}:
                caller.answer({"ok": True, "status": status(self._shared_state, self._began)})
            case {"command": "reload"} if self._stopping:
                caller.answer({"ok": False, "error": unready.STOPPING})
            case {"command": "reload"}:
                self._reloads.ask(caller)
            case _:
                caller.answer({"ok": False, "error": "this version of dicomd doesn't know the command"})

    def _maintain(self, *, wanted: bool) -> Answer:
        if wanted != self._shared_state.maintenance:
            self._shared_state.maintenance = wanted
            detail = (
                "new Associations are rejected, open ones may finish"
                if wanted
                else "new Associations are accepted again"
            )
            get_logger().warning("maintenance begins" if wanted else "maintenance ends", detail=detail)
            self._shown_at = 0.0
        return {"ok": True, "maintenance": wanted, "associations": self._shared_state.total_associations()}

    def _tell(self, now: float) -> None:
        if now - self._shown_at >= _STATUS_EVERY and self._starting is None:
            self._shown_at = now
            self._given.notifier.status(self._status())

    def _status(self) -> str:
        associations = self._shared_state.total_associations()
        if self._stopping:
            return f"Stopping, {associations} Associations still open"
        ready = sum(child.ready and not child.leaving for child in self._processes.workers())
        maintenance = ", in maintenance" if self._shared_state.maintenance else ""
        workers = f"{ready} worker{'' if ready == 1 else 's'}"
        return f"Generation {self._shared_state.generation}: {workers}, {associations} Associations open{maintenance}"
