"""The children in their order: generations of workers, the exporter, and who replaces whom.

The rule it keeps: what should be there is a list of posts; each turn of the supervisor's loop looks at every post once,
and nothing is ever waited for. A slot whose child died gets another after a pause that doubles with each death in a
row; a generation that retires loses its posts one by one.
"""

from __future__ import annotations

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
_LONG_LIFE = 30.0  # seconds after which a death is no repetition
_DEATHS_AT_START = 3  # of each worker, with none of the first generation ever ready
_KILL_GRACE = 5.0  # seconds beyond all that a child may take to leave
_REAP_TIMEOUT = 5.0  # seconds for a killed child to be gone; one that isn't then is held by the kernel


class Phase(Enum):
    """What a generation does."""

    STARTING = auto()
    SERVING = auto()
    RETIRING = auto()


@dataclass(slots=True, eq=False)
class ChildSlot:
    """A place for one child, empty between the death of one and the start of the next."""

    generation: Generation | None
    """None for the exporter's."""
    child: Child | None = None
    slot: int = -1
    due: float = 0.0
    """When a child may be started, on the monotonic clock."""
    pause: float = 0.0
    wanted: bool = True

    def schedule_restart(self, now: float, born: float) -> None:
        """Have another child started after a pause: the one before has died."""
        repeated = self.pause > 0 and now - born < _LONG_LIFE
        self.pause = min(self.pause * 2, _LONGEST_PAUSE) if repeated else _FIRST_PAUSE
        self.child, self.due = None, now + self.pause


@dataclass(slots=True, eq=False)
class Generation:
    """The workers of one configuration."""

    number: int
    spec: WorkerSpec
    child_slots: list[ChildSlot] = field(default_factory=list)
    phase: Phase = Phase.STARTING
    deaths: int = 0
    """Before all of it was ready."""
    last_death: str = ""
    was_ready: bool = False
    """Whether any of its workers has ever been ready."""
    given_up: bool = False
    """Whether it couldn't start: all of it has been killed."""
    ended: bool = False
    """Whether it was ended to make room. What the kernel holds of it may still be there."""
    leaves_by: float = math.inf
    """When what is left of it is killed, on the monotonic clock."""

    @property
    def ready(self) -> bool:
        """Whether each post has a worker that serves."""
        return all(child_slot.child is not None and child_slot.child.ready for child_slot in self.child_slots)

    @property
    def stuck(self) -> bool:
        """Whether one of its workers fell silent. It was killed, and may still be there: the kernel holds it."""
        return any(child_slot.child is not None and child_slot.child.stuck for child_slot in self.child_slots)

    @property
    def hopeless(self) -> bool:
        """Whether it will never start."""
        return not self.was_ready and self.deaths >= _DEATHS_AT_START * len(self.child_slots)

    def noted(self, detail: str) -> None:
        """One of its workers died."""
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
        self._shared_state, self._children, self._sockets = shared_state, children, sockets
        self._metrics, self._metric_folder = metrics, metric_folder
        self._exporter, self._server = ChildSlot(None), server
        self._exporter_leaves_by = self._workers_leave_by = self._given_up_at = math.inf

    # -- what the supervisor decides -------------------------------------------------------------------------------

    def begin(self, number: int, spec: WorkerSpec, size: int) -> Generation:
        """Start a generation of so many workers, at the next `tend`."""
        generation = Generation(number, spec)
        generation.child_slots = [ChildSlot(generation) for _ in range(size)]
        self.generations.append(generation)
        return generation

    def serve(self, generation: Generation) -> None:
        """The generation is the one that serves from now on; the others retire."""
        generation.phase = Phase.SERVING
        self._shared_state.generation = generation.number
        for other in self.generations:
            if other is not generation and other.phase is not Phase.RETIRING:
                self._dismiss(other, Order.RETIRE)

    def give_up(self, generation: Generation) -> None:
        """The generation couldn't start: it goes, and has nothing to lose."""
        generation.given_up = True
        self._dismiss(generation, Order.STOP)
        for child_slot in generation.child_slots:
            if child_slot.child is not None:
                child_slot.child.dismiss()

    def make_room(self, generation: Generation) -> float:
        """Have a generation that retires abort what is open; return when it is gone at the latest, unless it hangs."""
        generation.ended = True
        generation.leaves_by = time.monotonic() + ABORT_GRACE + _KILL_GRACE
        for child_slot in generation.child_slots:
            if child_slot.child is not None:
                child_slot.child.order(Order.MAKE_ROOM)
        return generation.leaves_by

    def stop(self, drain_timeout: float) -> None:
        """All workers leave, within the time."""
        self._workers_leave_by = time.monotonic() + drain_timeout + ABORT_GRACE + _KILL_GRACE
        for generation in self.generations:
            self._dismiss(generation, Order.STOP)

    def hurry(self) -> None:
        """They leave now."""
        self._workers_leave_by = min(self._workers_leave_by, time.monotonic() + ABORT_GRACE + _KILL_GRACE)
        for child in self.workers():
            child.order(Order.HURRY)

    def stop_exporter(self) -> None:
        """The exporter leaves too."""
        if self._exporter.wanted:
            self._exporter.wanted = False
            self._exporter_leaves_by = time.monotonic() + _KILL_GRACE
            if self._exporter.child is not None:
                self._exporter.child.order(Order.STOP)

    # -- what there is ---------------------------------------------------------------------------------------------

    def workers(self) -> list[Child]:
        """All living workers."""
        return [
            child_slot.child
            for generation in self.generations
            for child_slot in generation.child_slots
            if child_slot.child is not None
        ]

    def everybody(self) -> list[Child]:
        """All living children."""
        return self.workers() + ([self._exporter.child] if self._exporter.child is not None else [])

    def awaited(self) -> list[SupervisorEnd]:
        """The channels of those that something is expected of. What others say can wait for the next turn."""
        return [
            child.channel
            for child in self.everybody()
            if not child.stuck and (not child.ready or (child.leaving and not child.retired))
        ]

    @property
    def handed_over(self) -> bool:
        """Whether no worker of an old generation takes connections any more."""
        return all(child.retired for child in self.workers() if child.leaving)

    @property
    def aborted(self) -> int:
        """How many connections the workers that are here now had to abort."""
        return sum(self._shared_state.aborted(slot) for slot in self._shared_state.slots())

    @property
    def retiring(self) -> list[Generation]:
        """The generations that have served and still have workers, the oldest first."""
        return [each for each in self.generations if each.phase is Phase.RETIRING and not each.given_up]

    @property
    def hanging(self) -> int:
        """How many generations that couldn't start still have workers, since the kernel holds them."""
        return sum(each.given_up for each in self.generations)

    def left_behind(self, now: float) -> list[Child]:
        """The workers that a stop waits for no longer: they have been killed, and the kernel holds them."""
        return self.workers() if now >= self._given_up_at else []

    def next_due(self) -> float:
        """When the next child is to be started, on the monotonic clock."""
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
        for generation in self.generations:
            for child_slot in generation.child_slots:
                self._start(child_slot, now)
        self._start(self._exporter, now)
        self.generations = [generation for generation in self.generations if generation.child_slots]
        self._show()

    def _start(self, child_slot: ChildSlot, now: float) -> None:
        if child_slot.child is not None or not child_slot.wanted or child_slot.due > now:
            return
        generation = child_slot.generation
        try:
            if generation is None:
                child_slot.child = self._children.fork(self._server.run, close=[self._sockets.close_listeners])
            else:
                slot = self._free_slot()
                self._shared_state.occupy(slot, generation.number)
                spec, worker_slot = generation.spec, WorkerSlot(self._shared_state, slot, generation.number)

                def run(supervisor: ChildEnd) -> None:
                    run_worker(spec, worker_slot, supervisor)

                child_slot.child = self._children.fork(run, close=[self._sockets.close_http])
                child_slot.slot = slot
        except (OSError, IndexError) as error:
            child_slot.schedule_restart(now, now)
            if generation is not None:
                generation.noted(str(error))
            get_logger().error("no process to be had", error=str(error))

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
        if generation is None or child_slot is None:  # a child of another kind: whoever forked it sees to it
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
            self._workers_leave_by, self._given_up_at = math.inf, now + _REAP_TIMEOUT
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
