"""Keeps the right children running: the workers of each generation, and the exporter.

The children that should run are a list of child slots, and each turn of the supervisor's loop checks every slot once,
without waiting. A slot whose child died gets another one after a pause that doubles with each death in a row. A
retiring generation loses its slots one by one, as its workers exit.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from dicomd.ipc import metric_files
from dicomd.ipc.channel import ChildEnd, Order, SupervisorEnd
from dicomd.ipc.shared_state import SLOTS, SharedState
from dicomd.ipc.worker_slot import WorkerSlot
from dicomd.monitoring import exporter
from dicomd.monitoring.exporter import Exporter
from dicomd.supervisor.children import Child, Children, Exit
from dicomd.supervisor.sockets import Sockets
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.worker.process import ABORT_GRACE, WorkerSpec, run_worker

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds
_LONG_LIFE = 30.0  # seconds after which a death doesn't count as repeated
_DEATHS_AT_START = 3  # for each worker of the first generation, after which the start has failed if none was ever ready
_KILL_GRACE = 5.0  # seconds after the last deadline for its exit before a child is killed
REAP_TIMEOUT = 5.0
"""Seconds for a killed child to exit; after that, the kernel must be holding it."""


class Phase(Enum):
    """What a generation is doing."""

    STARTING = auto()
    SERVING = auto()
    RETIRING = auto()


@dataclass(slots=True, eq=False)
class ChildSlot:
    """A place for one child, which is empty between the death of one child and the start of the next."""

    generation: Generation | None
    """None for the exporter's slot."""
    child: Child | None = None
    slot: int = -1
    due: float = 0.0
    """When a child may be started, on the monotonic clock."""
    pause: float = 0.0
    wanted: bool = True

    def is_due(self, now: float) -> bool:
        """Return whether a child is missing here, and may be started."""
        return self.child is None and self.wanted and self.due <= now

    def schedule_restart(self, now: float, born: float) -> None:
        """Have another child started after a pause, in place of the one that has exited."""
        repeated = self.pause > 0 and now - born < _LONG_LIFE
        self.pause = min(self.pause * 2, _LONGEST_PAUSE) if repeated else _FIRST_PAUSE
        self.child = None
        self.due = now + self.pause


@dataclass(slots=True, eq=False)
class Generation:
    """The workers of one configuration."""

    number: int
    spec: WorkerSpec
    child_slots: list[ChildSlot] = field(default_factory=list)
    phase: Phase = Phase.STARTING
    deaths: int = 0
    """How many of its workers died before all of them were ready."""
    last_death: str = ""
    was_ready: bool = False
    """Whether any of its workers has ever been ready."""
    given_up: bool = False
    """Whether it couldn't start, so that all its workers were killed."""
    ended: bool = False
    """Whether it was ended to make room. Workers that the kernel holds may still be there."""
    leaves_by: float = math.inf
    """When its remaining workers are killed, on the monotonic clock."""

    @property
    def ready(self) -> bool:
        """Whether each child slot has a worker that is ready."""
        return all(child_slot.child is not None and child_slot.child.ready for child_slot in self.child_slots)

    @property
    def stuck(self) -> bool:
        """Whether one of its workers was killed because it was silent. It may still exist if the kernel holds it."""
        return any(child_slot.child is not None and child_slot.child.stuck for child_slot in self.child_slots)

    @property
    def hopeless(self) -> bool:
        """Whether its workers have died so often before any was ready that the start has failed."""
        return not self.was_ready and self.deaths >= _DEATHS_AT_START * len(self.child_slots)

    def noted(self, detail: str) -> None:
        """Note the death of one of its workers."""
        self.deaths += self.phase is Phase.STARTING
        self.last_death = detail


class ProcessManager:
    """All children; `tend` is called at each turn of the supervisor's loop."""

    def __init__(
        self,
        shared_state: SharedState,
        children: Children,
        sockets: Sockets,
        metrics: Metrics,
        metric_folder: Path,
        server: Exporter,
    ) -> None:
        self.generations: list[Generation] = []
        self._shared_state = shared_state
        self._children = children
        self._sockets = sockets
        self._metrics = metrics
        self._metric_folder = metric_folder
        self._exporter = ChildSlot(None)
        self._server = server
        self._exporter_leaves_by = self._workers_leave_by = self._given_up_at = math.inf

    # -- what the supervisor decides -------------------------------------------------------------------------------

    def begin(self, number: int, spec: WorkerSpec, size: int) -> Generation:
        """Add a generation of `size` workers, which the next `tend` starts."""
        generation = Generation(number, spec)
        generation.child_slots = [ChildSlot(generation) for _ in range(size)]
        self.generations.append(generation)
        return generation

    def serve(self, generation: Generation) -> None:
        """Have the generation accept all new connections from now on, and the others retire."""
        generation.phase = Phase.SERVING
        self._shared_state.generation = generation.number
        for other in self.generations:
            if other is not generation and other.phase is not Phase.RETIRING:
                self._dismiss(other, Order.RETIRE)

    def give_up(self, generation: Generation) -> None:
        """Kill a generation that couldn't start; it has no connections to lose."""
        generation.given_up = True
        self._dismiss(generation, Order.STOP)
        for child_slot in generation.child_slots:
            if child_slot.child is not None:
                child_slot.child.dismiss()

    def make_room(self, generation: Generation) -> float:
        """Have a retiring generation abort its connections; return the latest time of its exit, unless it hangs."""
        generation.ended = True
        generation.leaves_by = time.monotonic() + ABORT_GRACE + _KILL_GRACE
        for child_slot in generation.child_slots:
            if child_slot.child is not None:
                child_slot.child.order(Order.MAKE_ROOM)
        return generation.leaves_by

    def stop(self, drain_timeout: float) -> None:
        """Have all workers drain their connections for `drain_timeout` seconds at most, then exit."""
        self._workers_leave_by = time.monotonic() + drain_timeout + ABORT_GRACE + _KILL_GRACE
        for generation in self.generations:
            self._dismiss(generation, Order.STOP)

    def hurry(self) -> None:
        """Have all workers abort their connections and exit now."""
        self._workers_leave_by = min(self._workers_leave_by, time.monotonic() + ABORT_GRACE + _KILL_GRACE)
        for child in self.workers():
            child.order(Order.HURRY)

    def stop_exporter(self) -> None:
        """Have the exporter exit, too. Idempotent."""
        if self._exporter.wanted:
            self._exporter.wanted = False
            self._exporter_leaves_by = time.monotonic() + _KILL_GRACE
            if self._exporter.child is not None:
                self._exporter.child.order(Order.STOP)

    # -- what there is ---------------------------------------------------------------------------------------------

    def workers(self) -> list[Child]:
        """Return all living workers."""
        return [
            child_slot.child
            for generation in self.generations
            for child_slot in generation.child_slots
            if child_slot.child is not None
        ]

    def everybody(self) -> list[Child]:
        """Return all living children."""
        return self.workers() + ([self._exporter.child] if self._exporter.child is not None else [])

    def awaited(self) -> list[SupervisorEnd]:
        """Return the channels of children whose next report is awaited. Other reports can wait for the next turn."""
        return [
            child.channel
            for child in self.everybody()
            if not child.stuck and (not child.ready or (child.leaving and not child.retired))
        ]

    @property
    def handed_over(self) -> bool:
        """Whether no worker of an old generation accepts connections any more."""
        return all(child.retired for child in self.workers() if child.leaving)

    @property
    def aborted(self) -> int:
        """How many connections the workers that are still running had to abort."""
        return sum(self._shared_state.aborted(slot) for slot in self._shared_state.slots())

    @property
    def retiring(self) -> list[Generation]:
        """The generations that have served and still have workers, the oldest first."""
        return [each for each in self.generations if each.phase is Phase.RETIRING and not each.given_up]

    @property
    def hanging(self) -> int:
        """How many generations that couldn't start still have workers, because the kernel holds them."""
        return sum(each.given_up for each in self.generations)

    def left_behind(self, now: float) -> list[Child]:
        """Return the workers for which a stop no longer waits: they were killed, but the kernel holds them."""
        return self.workers() if now >= self._given_up_at else []

    def next_due(self) -> float:
        """Return when the next child is to be started, on the monotonic clock."""
        child_slots = [child_slot for generation in self.generations for child_slot in generation.child_slots]
        return min(
            (
                child_slot.due
                for child_slot in (self._exporter, *child_slots)
                if child_slot.wanted and not child_slot.child
            ),
            default=math.inf,
        )

    # -- each turn -------------------------------------------------------------------------------------------------

    def tend(self, now: float) -> None:
        """Read reports, reap exits, kill unresponsive children, start missing ones. Never waits."""
        for child in self.everybody():
            child.listen(now)
            child.kill_if_silent(now)
        for generation in self.generations:
            generation.was_ready |= any(
                child_slot.child is not None and child_slot.child.ready for child_slot in generation.child_slots
            )
        for exit_ in self._children.reap():
            self._on_exit(exit_, now)
        self._enforce_deadlines(now)
        child_slots = [child_slot for generation in self.generations for child_slot in generation.child_slots]
        missing = [child_slot for child_slot in (*child_slots, self._exporter) if child_slot.is_due(now)]
        if missing:
            gc.collect()
        for child_slot in missing:
            self._start(child_slot, now)
        self.generations = [generation for generation in self.generations if generation.child_slots]
        self._show()

    def _start(self, child_slot: ChildSlot, now: float) -> None:
        generation = child_slot.generation
        try:
            if generation is None:
                child_slot.child = self._children.fork(self._server.run, close=[self._sockets.close_listeners])
            else:
                slot = self._free_slot()
                self._shared_state.occupy(slot, generation.number)
                spec = generation.spec
                worker_slot = WorkerSlot(self._shared_state, slot, generation.number)

                def run(supervisor: ChildEnd) -> None:
                    run_worker(spec, worker_slot, supervisor)

                child_slot.child = self._children.fork(run, close=[self._sockets.close_http])
                child_slot.slot = slot
        except (OSError, IndexError) as error:
            child_slot.schedule_restart(now, now)
            if generation is not None:
                generation.noted(str(error))
            get_logger().error("fork failed", error=str(error))

    def _on_exit(self, exit_: Exit, now: float) -> None:
        child = exit_.child
        if child is self._exporter.child:
            metric_files.forget(self._metric_folder, exporter.OWNER)
            self._exporter.schedule_restart(now, child.born)
            if self._exporter.wanted:
                get_logger().error("exporter died", worker_pid=child.pid, reason=exit_.reason, detail=exit_.detail)
            return
        found = ((generation, child_slot) for generation in self.generations for child_slot in generation.child_slots)
        generation, child_slot = next(((g, p) for g, p in found if p.child is child), (None, None))
        if generation is None or child_slot is None:  # not a worker: whoever forked it notices that it has exited
            return
        metric_files.forget(self._metric_folder, str(child_slot.slot))
        self._shared_state.vacate(child_slot.slot)
        self._metrics.worker_exits.labels(exit_.reason).inc()
        if exit_.reason != "drained" and not child.dismissed:
            get_logger().error(
                Message.WORKER_DIED,
                dicomd_worker=str(child_slot.slot),
                dicomd_generation=generation.number,
                worker_pid=child.pid,
                reason=exit_.reason,
                detail=exit_.detail,
            )
        child_slot.schedule_restart(now, child.born)
        generation.noted(exit_.detail)
        if not child_slot.wanted:
            generation.child_slots.remove(child_slot)

    def _dismiss(self, generation: Generation, order: Order) -> None:
        generation.phase = Phase.RETIRING
        for child_slot in list(generation.child_slots):
            child_slot.wanted = False
            if child_slot.child is None:
                generation.child_slots.remove(child_slot)
            else:
                child_slot.child.order(order)

    def _enforce_deadlines(self, now: float) -> None:
        if now >= self._workers_leave_by:
            self._workers_leave_by = math.inf
            self._given_up_at = now + REAP_TIMEOUT
            for child in self.workers():
                child.kill()
        for generation in self.generations:
            if now >= generation.leaves_by:
                generation.leaves_by = math.inf
                for child_slot in generation.child_slots:
                    if child_slot.child is not None:
                        child_slot.child.kill()
        if now >= self._exporter_leaves_by and self._exporter.child is not None:
            self._exporter_leaves_by = math.inf
            self._exporter.child.kill()

    def _show(self) -> None:
        counts = dict.fromkeys(("starting", "ready", "draining"), 0)
        for child in self.workers():
            counts["draining" if child.leaving else "ready" if child.ready else "starting"] += 1
        for state, count in counts.items():
            self._metrics.workers.labels(state).set(count)

    def _free_slot(self) -> int:
        taken = {
            child_slot.slot
            for generation in self.generations
            for child_slot in generation.child_slots
            if child_slot.child is not None
        }
        return next((slot for slot in range(SLOTS) if slot not in taken), SLOTS)
