"""Makes each system call of storing an instance fail with each cause, and checks the status, the store and recovery.

The calls are read from a trace of the same operation succeeding, so that none is forgotten; strace then makes one of
them fail in the real worker, in the thread of one Association. With a window, another thread commits, and each of the
two has its own calls.
"""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom.uid import UID

from tests.crash.conftest import Figures
from tests.crash.senders import digest
from tests.crash.strace import attached, parse
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import Daemon
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, new_uid
from tests.support.raw_peer import RawPeer, window
from tests.support.waiting import wait_until

CAUSES = {"ENOSPC": "A700", "EDQUOT": "A700", "EIO": "A701", "EROFS": "A701", "ENOMEM": "A703", "EMFILE": "A703"}
OUR_OWN = ("ENOMEM", "EMFILE")
"""Arguments that don't identify the file concerned."""
SYNCS = ("fsync", "fdatasync")
OF_THE_STORE = (*SYNCS, "statfs")
"""Calls that concern the whole store, whatever their path. The free space is asked for once in a while only."""
NOT_FAILING = ("close", "getpid")
"""Not made to fail: strace would skip the call, and the descriptor would stay open."""
AFTERWARDS = ("unlink",)
"""Calls made after the answer has been sent."""
TIMEOUT = 30.0
_FUTEX, _RECVFROM = ("98", "207") if platform.machine() == "aarch64" else ("202", "45")  # their numbers

pytestmark = [pytest.mark.root, pytest.mark.system]


@dataclass(frozen=True)
class Situation:
    """The instances stored beforehand, in order, and the one sent with the fault."""

    name: str
    before: list[Instance]
    sent: Instance
    duplicates: str = "keep-both"


def instance_of(study: str, uid: str = "", *, size: int = 600) -> Instance:
    ds = data_set(uid or new_uid(), size=size)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(study), UID(f"{study}.1")
    return Instance(CT_IMAGE_STORAGE, str(ds.SOPInstanceUID), EXPLICIT_LITTLE, encode(ds))


def new_study() -> Situation:
    return Situation("new study", [], instance_of(new_uid()[:60]))


def same_series() -> Situation:
    study = new_uid()[:60]
    return Situation("same series", [instance_of(study)], instance_of(study))


def identical() -> Situation:
    sent = instance_of(new_uid()[:60])
    return Situation("identical", [sent], sent)


def kept_both() -> Situation:
    sent = instance_of(study := new_uid()[:60])
    return Situation("kept both", [sent], instance_of(study, sent.sop_instance_uid))


def replaced() -> Situation:
    sent = instance_of(study := new_uid()[:60])
    return Situation("replaced", [sent], instance_of(study, sent.sop_instance_uid), "replace")


def large() -> Situation:
    return Situation("large", [], instance_of(new_uid()[:60], size=700_000))


SITUATIONS = [new_study, same_series, identical, kept_both, replaced]


@dataclass(frozen=True)
class Fault:
    """A failure of the `number`th call of this name in the Association's thread, counted from 1."""

    call: str
    number: int
    what: str
    thread: int = 0
    """Whose: 0 for the Association's own, 1 for that which commits where there is a window."""
    harmless: bool = False
    """Whether nothing depends on the call, because the instance is durable by then."""
    of_a_path: bool = False
    """Whether it is no sync and concerns the instance's folders or a file under its name: the store stays ready."""
    of_an_existing_file: bool = False
    """Whether it keeps a file from being compared, which then counts as another Data Set."""
    unlocked: bool = False
    """Whether moreover the file's lock isn't held yet, so that it can't be replaced."""


class Faults:
    """A daemon with one worker, and the faults that strace injects into it."""

    def __init__(self, daemon: Daemon, folder: Path, *, windowed: bool = False) -> None:
        self.daemon = daemon
        self._proposed = [window(8)] if windowed else []
        self._out = folder / "trace"
        (self._worker,) = daemon.worker_pids()
        self._others = self._threads()
        """The threads that don't serve a connection."""
        self.injected: Counter[str] = Counter()
        self.refused = self.unready = 0
        """How often 0xA701 blamed the store, which then wasn't ready: it may recover within the second."""
        self.left: set[Path] = set()
        """Temporary files that could not be removed."""
        self.wrong: list[str] = []
        with self._association() as (peer, _thread):
            self._store(peer, [instance_of(new_uid()[:60])])  # acquires the lock of its temporary files

    def calls(self, situation: Situation) -> list[Fault]:
        """The calls that concern the store in a run without faults."""
        with self._association() as (peer, thread):
            self._store(peer, situation.before)
            threads = self._all_threads(peer, thread)
            with attached(threads, self._out, "-s", "40"):
                assert peer.store(situation.sent).status == 0
                self._settle(peer)  # then all work on the instance has been done
        numbers: Counter[tuple[str, str]] = Counter()
        found = []
        examined: dict[str, str] = {}  # files under a final name → the step that their examination has reached
        for call in parse(self._out.read_text()):
            numbers[call.thread, call.name] += 1
            paths = [call.descriptor, *call.paths]
            if call.name not in NOT_FAILING and any(path.startswith(f"{self.daemon.root}") for path in paths):
                named = call.name.endswith("at") or not call.descriptor  # otherwise a string is data
                path = (call.paths[-1] if named else call.descriptor).rstrip("/").removeprefix(f"{self.daemon.root}/")
                what = re.sub(r"[0-9a-f.]{12,}", "…", path)
                harmless = call.name in AFTERWARDS or "LOCK_UN" in call.arguments
                whose = threads.index(call.thread or thread)
                fault = Fault(call.name, numbers[call.thread, call.name], what, whose, harmless)
                if not path.startswith(".dicomd/") and call.name not in OF_THE_STORE:
                    step = examined.get(path, "")
                    existing = path.endswith(".dcm") and step != "over" and call.name not in ("linkat", "renameat")
                    fault = replace(
                        fault, of_a_path=True, of_an_existing_file=existing, unlocked=existing and step == "openat"
                    )
                if path.endswith(".dcm") and (call.name in ("openat", "flock") or call.name in SYNCS):
                    examined[path] = "over" if call.name in SYNCS else call.name
                found.append(fault)
        return found

    def inject(self, situation: Situation, fault: Fault, cause: str) -> None:
        """Store with the fault, and record every deviation from the expected outcome."""
        try:
            self._inject(situation, fault, cause)
        except AssertionError as failure:
            told = str(failure).splitlines()[0] if str(failure) else "?"
            self.wrong.append(f"{situation.name}: {cause} of {fault.call} #{fault.number} ({fault.what}): {told}")

    def _inject(self, situation: Situation, fault: Fault, cause: str) -> None:
        expected = "0000" if fault.harmless else "A701" if fault.call in SYNCS else CAUSES[cause]
        unreadable = fault.of_an_existing_file and cause not in OUR_OWN
        if unreadable:
            expected = "A701" if situation.duplicates == "replace" and fault.unlocked else "0000"
        with self._association() as (peer, thread):
            self._store(peer, situation.before)
            threads = self._all_threads(peer, thread)
            folders = self._folders()
            injection = f"inject={fault.call}:error={cause}:when={fault.number}"
            with attached([threads[fault.thread]], self._out, "-s", "40", "-e", injection):
                answer = peer.store(situation.sent)
                ready = self.daemon.ready()  # asked at once, because the store may recover within moments
                self._settle(peer)
            if "(INJECTED)" not in self._out.read_text():
                expected, unreadable = "0000", False
            else:
                self.injected[fault.call] += 1
                if fault.call in AFTERWARDS:
                    self.left |= set(self.daemon.temporary_files())
            status = f"{answer.status:04X}"
            assert status == expected, f"{status} {answer.error_comment!r}, not {expected}"
            assert bool(answer.error_comment) == bool(answer.status), "no Error Comment"
            wait_until(  # after a failure the daemon's own probe files come and go
                lambda: set(self.daemon.temporary_files()),
                until=lambda seen: seen <= self.left,
                what="a temporary file was left",
            )
            self._look(situation, stored=answer.status == 0, twice=unreadable)
            if answer.status:
                assert self._folders() == folders, "folders were left"
            if fault.of_a_path:
                assert ready, "the store is not ready"
            elif status == "A701":
                self.refused += 1
                self.unready += not ready
            self._wait_ready()
            self._store(peer, [situation.sent, instance_of(new_uid()[:60])])  # on the same Association
            self._look(situation, stored=True, twice=unreadable)

    def _look(self, situation: Situation, *, stored: bool, twice: bool) -> None:
        """Exactly the expected files exist, complete; a Data Set is there twice if its file could not be read."""
        files = [f for f in self.daemon.stored() if f.sop_instance_uid == situation.sent.sop_instance_uid]
        found = sorted(digest(file.data_set) for file in files)
        before = [digest(each.data_set) for each in situation.before if _same(each, situation.sent)]
        after = digest(situation.sent.data_set)
        if situation.duplicates == "replace":
            allowed = [[after]] if stored else [before, [after]]  # the new one is kept if only its sync has failed
        else:
            both = sorted([*before, after]) if twice else sorted({*before, after})
            allowed = [both] if stored else [sorted(before)]
        assert found in allowed, f"{len(found)} files, which are not the expected ones"

    @contextlib.contextmanager
    def _association(self) -> Iterator[tuple[RawPeer, str]]:
        self._wait_ready()  # in case the previous one failed before it waited
        with RawPeer(self.daemon.address) as peer:
            peer.associate(user_information=self._proposed)
            (thread,) = wait_until(  # the previous Association's thread has yet to end
                self._receiving, TIMEOUT, until=lambda serving: len(serving) == 1, pause=0.1
            )
            yield peer, thread
            peer.release()

    def _all_threads(self, peer: RawPeer, thread: str) -> list[str]:
        """The Association's thread and, if there is a window, the one that will commit its next instance."""
        if not self._proposed:
            peer.echo()
            return [thread]

        def committers() -> set[str]:
            self._store(peer, [instance_of(new_uid()[:60])])
            return self._threads() - self._others - {thread}

        what = "more than one thread commits"  # one that is needed no more ends soon
        (committer,) = wait_until(committers, TIMEOUT, until=lambda found: len(found) == 1, what=what, pause=0.1)
        return [thread, committer]

    def _settle(self, peer: RawPeer) -> None:
        """Wait until what is done after a response has been done, too."""
        peer.echo()
        if self._proposed:
            wait_until(lambda: all(self._is_idle(each) for each in self._threads() - self._others), TIMEOUT)

    def _is_idle(self, thread: str) -> bool:
        """Whether a thread waits for its peer or for work, and not for Python's lock, which takes 5 ms at most."""
        for _ in range(3):
            if self._doing(thread) not in (_RECVFROM, _FUTEX, ""):
                return False
            time.sleep(0.01)
        return True

    def _doing(self, thread: str) -> str:
        """The number of the system call that a thread waits in; "" if it has ended."""
        try:
            return Path(f"/proc/{self._worker}/task/{thread}/syscall").read_text().split()[0]
        except OSError:
            return ""

    def _receiving(self) -> list[str]:
        """The threads of connections: the one of the next Association, once the previous one has ended."""
        threads = self._threads() - self._others
        return [each for each in threads if self._doing(each) == _RECVFROM] if self._proposed else list(threads)

    def _threads(self) -> set[str]:
        return {folder.name for folder in Path(f"/proc/{self._worker}/task").iterdir()}

    def _folders(self) -> set[Path]:
        return {path for path in self.daemon.root.glob("[0-9]*/**") if path.is_dir()}

    def _store(self, peer: RawPeer, instances: list[Instance]) -> None:
        for each in instances:
            status = peer.store(each).status
            assert status == 0, f"{status:04X} for an object before or after"
            if self._proposed:
                self._settle(peer)

    def _wait_ready(self) -> None:
        wait_until(self.daemon.ready, TIMEOUT, what="the daemon does not become ready again")


def _same(one: Instance, other: Instance) -> bool:
    return one.sop_instance_uid == other.sop_instance_uid


def fail_all(
    start_daemon: StartDaemon,
    folder: Path,
    figures: Figures,
    choose: Callable[[str, int], list[str]],
    *,
    windowed: bool = False,
) -> None:
    """Make each call fail with the causes that `choose` returns for a situation and a number."""
    cases = 0
    counts: Counter[str] = Counter()
    for duplicates in ("keep-both", "replace"):
        daemon = start_daemon(dicomd={"workers": 1}, storage={"duplicates": duplicates})
        faults = Faults(daemon, folder, windowed=windowed)
        for make in SITUATIONS:
            if make().duplicates != duplicates:
                continue
            calls = faults.calls(make())
            assert {"fdatasync", "fsync", "writev", "linkat"} <= {fault.call for fault in calls}
            assert {fault.thread for fault in calls} == {0, int(windowed)}
            for number, fault in enumerate(calls):
                for cause in choose(make.__name__, number):
                    faults.inject(make(), fault, cause)
                    cases += 1
        daemon.stop()
        daemon.start()  # sweeps files that couldn't be removed
        daemon.wait_no_temporary_files()
        assert not faults.wrong, "\n".join(faults.wrong)
        counts += Counter({"refused": faults.refused, "unready": faults.unready}) + faults.injected
    refused, unready = counts.pop("refused"), counts.pop("unready")
    figures(cases=cases, faults_injected=counts.total(), **{f"of_{call}": n for call, n in sorted(counts.items())})
    assert counts.total() > 0.9 * cases
    assert unready > refused / 2


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_call_of_the_store_fails(start_daemon: StartDaemon, tmp_path: Path, figures: Figures) -> None:
    """With every cause for a new study, and with one cause per call, in turn, in the other situations."""

    def choose(situation: str, number: int) -> list[str]:
        return list(CAUSES) if situation == "new_study" else [list(CAUSES)[(number + len(situation)) % len(CAUSES)]]

    fail_all(start_daemon, tmp_path, figures, choose)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_call_of_the_store_fails_with_a_window(
    start_daemon: StartDaemon, tmp_path: Path, figures: Figures
) -> None:
    """With one cause per call, in turn."""

    def choose(situation: str, number: int) -> list[str]:
        wanted = situation in ("new_study", "replaced")
        return [list(CAUSES)[(number + len(situation)) % len(CAUSES)]] if wanted else []

    fail_all(start_daemon, tmp_path, figures, choose, windowed=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_call_of_the_store_fails_with_every_cause(
    start_daemon: StartDaemon, tmp_path: Path, figures: Figures
) -> None:
    fail_all(start_daemon, tmp_path, figures, lambda _situation, _number: list(CAUSES))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("cause", CAUSES)
def test_a_write_in_the_middle_of_a_large_object_fails(start_daemon: StartDaemon, tmp_path: Path, cause: str) -> None:
    """The rest of the object is drained, and it is answered once."""
    faults = Faults(start_daemon(dicomd={"workers": 1}), tmp_path)
    faults.inject(large(), Fault("writev", 2, "the second"), cause)
    assert faults.wrong == []
    assert faults.injected == {"writev": 1}
