"""Forks child processes, reads their reports, and reaps them.

Invariant: a child keeps none of the supervisor's descriptors but those it needs, its signals never reach the
supervisor's signal pipe, and it never returns into the supervisor's code. A process with threads must not fork here:
the child could inherit a lock that is held by a thread it doesn't have.
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
"""Seconds from the fork until the child is ready, which include its first check of a store that may be slow."""
STUCK_AFTER = 10.0
"""Seconds of silence after which a child is killed; it normally reports every second."""
_FAILED = 70  # sysexits.h EX_SOFTWARE

ALL_SIGNALS = signal.valid_signals()


@dataclass(slots=True, eq=False)
class Child:
    """A living child. Times are on the monotonic clock."""

    pid: int
    channel: SupervisorEnd
    born: float
    heard: float
    ready: bool = False
    retired: bool = False
    """Whether it has reported that it accepts no more connections."""
    leaving: bool = False
    """Whether it was ordered to exit."""
    stuck: bool = False
    """Whether it was killed because it was silent."""
    dismissed: bool = False
    """Whether it was killed without being at fault."""

    def order(self, order: Order) -> None:
        """Send it an order. Every order means that it is to exit, sooner or later."""
        self.leaving = True
        self.channel.order(order)

    def listen(self, now: float) -> None:
        """Read its reports."""
        reports = self.channel.take()
        if reports:
            self.heard = now
        self.ready = self.ready or ChildEvent.READY in reports
        self.retired = self.retired or ChildEvent.RETIRED in reports

    def kill(self) -> None:
        """Send SIGKILL. The child has not been reaped, so its process ID can't have been reused."""
        os.kill(self.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """Kill it before it has served any peer, because it is no longer needed."""
        self.dismissed = True
        self.kill()

    def kill_if_silent(self, now: float) -> None:
        """Kill it if it has not reported for too long."""
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
    """All children. The functions in `private` are called in each child, to close what only the supervisor may use."""

    private: list[Callable[[], None]] = field(default_factory=list)
    living: dict[int, Child] = field(default_factory=dict)

    def fork(self, run: Callable[[ChildEnd], None], *, close: Iterable[Callable[[], None]] = ()) -> Child:
        """Start a child that calls `run` with its end of the channel, after `close` has freed what it doesn't need.

        The caller collects garbage first, once for all children that it starts, because the child would keep it, and
        what it holds open. Raises OSError if no process can be started, or if there are no descriptors left for the
        channel.
        """
        ours, theirs = channel()
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        gc.freeze()  # the child's garbage collector won't write to existing objects, so their pages stay shared
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
        """Return the children that have exited since the last call."""
        exits = []
        while self.living:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self.living.pop(pid, None)
            if child is not None:  # else an orphan that the supervisor inherited as process 1 of a container
                child.channel.close()
                exits.append(_exit(child, os.waitstatus_to_exitcode(status)))
        return exits

    def forgive_silence(self, now: float) -> None:
        """Count silence from now on: while the supervisor itself was stopped, it couldn't read any reports."""
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
        return Exit(child, "stuck", f"no report for {STUCK_AFTER if child.ready else STARTS_WITHIN:g} s")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Exit(child, "signal", f"ended by {name}")
    if code:
        return Exit(child, "failed", f"exit status {code}")
    return Exit(child, "drained", "its Associations have ended")
