"""Child processes: forked, heard, and reaped.

The rule it keeps: a child starts with nothing of the supervisor's but what it was made for, no signal of it reaches the
supervisor's descriptors, and it never returns into the supervisor's code. Only a process without threads may fork here.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dicomd.ipc.channel import ChildEnd, ChildEvent, Order, SupervisorEnd, channel
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.messages import Message

STARTS_WITHIN = 30.0
"""Seconds from the fork to ready; the first look at a slow store is among them."""
STUCK_AFTER = 10.0
"""Seconds of silence; a child says something every second."""
_FAILED = 70  # sysexits.h EX_SOFTWARE

ALL_SIGNALS = signal.valid_signals()


@dataclass(slots=True, eq=False)
class Child:
    """A living child. Times are those of the monotonic clock."""

    pid: int
    channel: SupervisorEnd
    born: float
    heard: float
    ready: bool = False
    retired: bool = False
    """It takes no more connections."""
    leaving: bool = False
    """It was ordered to leave."""
    stuck: bool = False
    """It was killed for its silence."""
    dismissed: bool = False
    """It was killed, and for nothing it did."""

    def order(self, order: Order) -> None:
        """Tell it what to do; all orders but the one to hurry are to leave."""
        self.leaving = True
        self.channel.order(order)

    def listen(self, now: float) -> None:
        """Take in what it has said."""
        reports = self.channel.take()
        if reports:
            self.heard = now
        self.ready = self.ready or ChildEvent.READY in reports
        self.retired = self.retired or ChildEvent.RETIRED in reports

    def kill(self) -> None:
        """SIGKILL. It is still there until it is reaped, so the number is surely its own."""
        os.kill(self.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """Kill it before it has served anybody."""
        self.dismissed = True
        self.kill()

    def kill_if_silent(self, now: float) -> None:
        """Kill it where it has fallen silent."""
        if not self.stuck and now - self.heard > (STUCK_AFTER if self.ready else STARTS_WITHIN):
            self.stuck = True
            self.kill()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended. `reason` is a label of dicomd_worker_exits_total."""

    child: Child
    reason: str
    detail: str


@dataclass(slots=True)
class Children:
    """All children. `private` close, in a child, what is the supervisor's alone."""

    private: list[Callable[[], None]] = field(default_factory=list)
    living: dict[int, Child] = field(default_factory=dict)

    def fork(self, run: Callable[[ChildEnd], None], *, close: Iterable[Callable[[], None]] = ()) -> Child:
        """Start a child that calls `run` with its end of the channel; `close` gives up what it doesn't need.

        Raises OSError where there is no process or descriptor to be had.
        """
        ours, theirs = channel()
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        gc.collect()
        gc.freeze()  # what is there now stays shared: the child's collector won't write to it
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(run, theirs, [ours.close, *close])
        except OSError:
            ours.close()
            raise
        finally:
            gc.unfreeze()
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)
        now = time.monotonic()
        child = self.living[pid] = Child(pid, ours, born=now, heard=now)
        return child

    def reap(self) -> list[Exit]:
        """The children that have ended since the last call."""
        exits = []
        while self.living:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self.living.pop(pid, None)
            if child is not None:  # else one that the supervisor got as process 1 of a container
                child.channel.close()
                exits.append(_exit(child, os.waitstatus_to_exitcode(status)))
        return exits

    def forgive_silence(self, now: float) -> None:
        """Nobody could be heard while the supervisor itself stood still: count from now."""
        for child in self.living.values():
            child.heard = now

    def _be_child(
        self, run: Callable[[ChildEnd], None], supervisor: ChildEnd, close: Iterable[Callable[[], None]]
    ) -> None:
        status = _FAILED
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL if number is not signal.SIGTERM else signal.SIG_IGN)
            for give_up in (*self.private, *close):
                give_up()
            for sibling in self.living.values():
                sibling.channel.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)
            run(supervisor)
            status = 0
        except BaseException as error:
            get_logger().error(Message.INTERNAL_ERROR, module=__name__, exception=error)
        finally:
            os._exit(status)


def _exit(child: Child, code: int) -> Exit:
    if child.stuck:
        return Exit(child, "stuck", f"it said nothing for {STUCK_AFTER if child.ready else STARTS_WITHIN:g} s")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Exit(child, "signal", f"ended by {name}")
    if code:
        return Exit(child, "failed", f"exit status {code}")
    return Exit(child, "drained", "its Associations have ended")
