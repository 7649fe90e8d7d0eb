"""Reloads, one at a time, from the request to the generation that serves, or to the reasons why none does.

As in nginx: wait for a place, validate everything, start a new generation, and only when all its workers are ready let
the old one retire. Invariant: each step ends, whatever peers, file systems and workers do. A wait for a place ends the
oldest generation after dicomd.drain_timeout; and if a path or a worker never answers, the reload fails and the running
configuration stays in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dicomd import unready
from dicomd.config.schema import Config
from dicomd.supervisor.children import STARTS_WITHIN
from dicomd.supervisor.control import Caller
from dicomd.supervisor.process_manager import REAP_TIMEOUT, Generation, ProcessManager
from dicomd.supervisor.reread_config import MAX_ERRORS, Reading
from dicomd.supervisor.tls_setup import ListenersTls, UnusableTlsError, prepare
from dicomd.supervisor.validation import Validation
from dicomd.telemetry.logs import get_logger

MAX_RETIRING = 8
"""The most old generations that can live at once; further reloads wait for one to end."""
_MAX_HANGING = 8
"""With so many generations that were killed during their start but are held by the kernel, no more are started."""
_HAND_OVER_TIMEOUT = 2.0
"""Seconds for old workers to stop accepting connections. One that doesn't is stuck, and new ones don't wait for it."""
HELD_BY_THE_KERNEL = "they were killed, but the kernel holds them, as it does while a disk or a file server hangs"


class Host(Protocol):
    """What a reload needs from the supervisor."""

    def validate(self) -> Validation:
        """Begin to validate the file. Raises OSError if no process can be started for that."""

    def begin(self, config: Config, tls: ListenersTls | None) -> Generation:
        """Start the workers of a new configuration."""

    def apply(self, reading: Reading, config: Config, tls: ListenersTls | None, generation: Generation) -> None:
        """Put into force the configuration of a generation that now serves."""

    def reject(self, errors: tuple[str, ...]) -> None:
        """Report that nothing has changed, for the reasons in `errors`."""

    def reloading(self) -> None:
        """Report that a reload begins; a call of `apply` or `reject` follows."""

    @property
    def drain_timeout(self) -> float:
        """dicomd.drain_timeout of the configuration in force, in seconds."""


@dataclass(slots=True)
class _Wait:
    """A reload waits for a place: unless another ends first, `oldest` is ended at `ends` and must exit by `gone_by`."""

    oldest: Generation
    ends: float
    gone_by: float | None = None


@dataclass(slots=True)
class _Start:
    """The workers of a new configuration are starting, or have started and are taking over."""

    reading: Reading
    config: Config
    tls: ListenersTls | None
    generation: Generation
    handed_over_by: float | None = None
    """When the old workers must have closed the listening sockets; None until the new workers are ready."""


class Reloads:
    """All reloads. The supervisor's loop calls `tend` at each turn."""

    def __init__(self, host: Host, processes: ProcessManager) -> None:
        self._host = host
        self._processes = processes
        self._wanted = False
        self._asking: list[Caller] = []
        """Callers whose reload has not begun."""
        self._callers: list[Caller] = []
        """Callers of the reload that is under way."""
        self._wait: _Wait | None = None
        self._validation: Validation | None = None
        self._start: _Start | None = None

    def ask(self, caller: Caller | None = None) -> None:
        """Reload as soon as possible, then answer `caller`. All requests before the reload begins share it."""
        self._wanted = True
        self._asking = [other for other in self._asking if not other.gone]
        if caller is not None:
            self._asking.append(caller)

    def sources(self) -> list[int]:
        """Return the descriptors to poll for reading."""
        return [self._validation.fileno()] if self._validation is not None else []

    def tend(self, now: float) -> None:
        """Continue as far as possible. Never waits."""
        if self._validation is not None:
            self._look_at_validation(self._validation, now)
        if self._start is not None:
            self._look_at_start(self._start, now)
        if self._wanted and self._validation is None and self._start is None:
            self._begin(now)

    def stop(self) -> None:
        """Give up, because the daemon is stopping, and answer the callers that wait."""
        if self._validation is not None:
            self._validation.abandon()
        callers = self._callers + self._asking
        self._callers = []
        self._asking = []
        self._validation = None
        self._start = None
        self._wanted = False
        for caller in callers:
            caller.answer({"ok": False, "error": unready.STOPPING})

    # -- step by step ----------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if not self._has_place(now):
            return
        self._take_callers()
        self._host.reloading()
        try:
            self._validation = self._host.validate()
        except OSError as error:
            self._reject((f"no process could be started to validate the configuration: {error.strerror}",))

    def _take_callers(self) -> None:
        """Make all callers that have asked so far callers of this reload."""
        self._wanted = False
        self._wait = None
        self._callers = self._asking
        self._asking = []

    def _has_place(self, now: float) -> bool:
        if self._processes.hanging >= _MAX_HANGING:
            self._take_callers()
            self._reject((f"the workers of {_MAX_HANGING} failed reloads are still there: {HELD_BY_THE_KERNEL}",))
            return False
        if len(self._processes.retiring) < MAX_RETIRING:
            return True
        wait = self._wait
        if wait is None:
            retiring = self._processes.retiring
            # One that was ended before and is still there is held by the kernel; others can make room.
            oldest = next((generation for generation in retiring if not generation.ended), retiring[0])
            wait = self._wait = _Wait(oldest, now + self._host.drain_timeout)
            get_logger().warning(
                "reload waits",
                detail=f"{MAX_RETIRING} old generations still have Associations: those of generation "
                f"{wait.oldest.number}, the oldest, are aborted in {self._host.drain_timeout:g} s unless another "
                "generation ends first",
            )
        if wait.gone_by is None and now >= wait.ends:
            wait.gone_by = self._processes.make_room(wait.oldest) + REAP_TIMEOUT
            get_logger().warning(
                "old generation is ended",
                detail=f"a reload has waited {self._host.drain_timeout:g} s (dicomd.drain_timeout) for generation "
                f"{wait.oldest.number} to end: its Associations are aborted",
            )
        elif wait.gone_by is not None and now >= wait.gone_by:
            self._take_callers()
            self._reject((f"workers of the old generation {wait.oldest.number} can't be ended: {HELD_BY_THE_KERNEL}",))
        return False

    def _look_at_validation(self, validation: Validation, now: float) -> None:
        reading = validation.tend(now)
        if reading is None:
            return
        self._validation = None
        if reading.config is None:
            self._reject(reading.errors)
            return
        try:
            tls = prepare(reading.config, reading.tls)
        except UnusableTlsError as error:
            self._reject((str(error),))
        else:
            self._start = _Start(reading, reading.config, tls, self._host.begin(reading.config, tls))

    def _look_at_start(self, start: _Start, now: float) -> None:
        generation = start.generation
        if start.handed_over_by is None and (generation.deaths or generation.stuck):
            why = (
                f"{generation.last_death} (the log says why)"
                if generation.deaths
                else f"one was not ready within {STARTS_WITHIN:g} s, as happens when storage.root doesn't answer"
            )
            self._start = None
            self._processes.give_up(generation)
            self._reject((f"the new workers don't start: {why}",))
        elif start.handed_over_by is None:
            if generation.ready:
                start.handed_over_by = now + _HAND_OVER_TIMEOUT
                self._processes.serve(generation)
        elif self._processes.handed_over or now >= start.handed_over_by:
            self._start = None
            self._host.apply(start.reading, start.config, start.tls, generation)
            pending = start.reading.pending
            self._tell({"ok": True, "generation": generation.number, "restart_pending": pending})

    def _reject(self, errors: tuple[str, ...]) -> None:
        self._host.reject(errors)
        self._tell({"ok": False, "error": "\n".join(errors[:MAX_ERRORS])})

    def _tell(self, answer: dict[str, object]) -> None:
        callers, self._callers = self._callers, []
        for caller in callers:
            caller.answer(answer)
