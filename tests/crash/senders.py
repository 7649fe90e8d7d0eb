"""Modalities that don't give up: they resend each instance over new Associations until it is acknowledged.

Invariant: an instance is recorded as sent before its first byte leaves, and as acknowledged once the response with
0x0000 has been read, so that whatever the daemon did in between can be judged afterwards.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pydicom.uid import UID

from tests.support import wire
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, new_uid
from tests.support.overwrites import Sending
from tests.support.raw_peer import RawPeer, associate_rq, store_message, window

PAUSE = 0.05
"""Seconds until a daemon that isn't running, or accepts nothing, is tried again."""
_TIMEOUT = 60.0
"""Seconds that a daemon may be silent. A dead one's connections end at once, so exceeding this is a failure."""
_ROOM = 60  # characters of a Study Instance UID, so that a Series Instance UID fits with one more component
_SIZES = (600, 600, 3000, 20_000, 20_000, 150_000, 600_000)


def digest(data: bytes) -> bytes:
    """The digest that stands for a Data Set, because there are too many to keep."""
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass
class Ledger:
    """Sent and acknowledged instances: SOP Instance UID → digest of the Data Set."""

    sent: dict[str, bytes] = field(default_factory=dict)
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    """Answers other than 0x0000."""
    resent: int = 0
    total: int = 0
    """Number of acknowledged instances, including forgotten ones."""
    sendings: list[Sending] = field(default_factory=list)
    """Every sending of a Data Set."""

    def forget(self, sop_instance_uid: str) -> None:
        """Forget an acknowledged instance that has been verified and deleted."""
        del self.acknowledged[sop_instance_uid], self.sent[sop_instance_uid]


class Shared:
    """Instances that all senders send repeatedly, each in `variants` Data Sets under one SOP Instance UID."""

    _KEPT = 8
    _RENEWED = 0.03  # probability that `choose` replaces the oldest instance with a new one

    def __init__(self, variants: int) -> None:
        self._variants = variants
        self._lock = threading.Lock()
        self._instances: list[list[Instance]] = []

    def choose(self, chance: random.Random) -> Instance:
        """Choose an instance at random. Now and then the oldest is replaced with a new one."""
        with self._lock:
            if len(self._instances) < self._KEPT or chance.random() < self._RENEWED:
                self._instances = [*self._instances, self._new(chance)][-self._KEPT :]
            return chance.choice(chance.choice(self._instances))

    def _new(self, chance: random.Random) -> list[Instance]:
        uid, study = new_uid(), new_uid()[:_ROOM]
        return [_make(uid, study, f"{study}.1", chance.choice(_SIZES)) for _ in range(self._variants)]


class Senders:
    """A context manager: `count` threads, each with one Association at a time, to the current `address()`.

    The first `lasting` threads never release their Association, so that a daemon that begins to refuse instances always
    has a peer to answer: new Associations are rejected, and all other threads may be between two Associations at that
    moment. Each Association has up to `operations` instances outstanding. `told`, if given, is called in a sender's
    thread with each acknowledged SOP Instance UID. Every second instance is one of `shared`, if given; of the others,
    the share `unfiled` has no Series Instance UID.
    """

    def __init__(
        self,
        address: Callable[[], tuple[str, int]],
        *,
        seed: int,
        count: int = 8,
        lasting: int = 0,
        sizes: tuple[int, ...] = _SIZES,
        told: Callable[[str], None] = lambda _uid: None,
        ledger: Ledger | None = None,
        shared: Shared | None = None,
        unfiled: float = 0.0,
        operations: int = 1,
    ) -> None:
        self.ledger = ledger or Ledger()
        self._address, self._sizes, self._told = address, sizes, told
        self._shared = shared
        self._unfiled = unfiled
        self._operations = operations
        self._over = threading.Event()
        self._recording = threading.Lock()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed + number), number < lasting), name="sender")
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait until each thread has finished its current instance; raise the first unexpected exception."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, chance: random.Random, lasting: bool) -> None:
        try:
            unanswered: list[Instance] = []
            while not self._over.is_set():
                numbers = itertools.count() if lasting else range(chance.randint(1, 12))
                unanswered = self._one_association(chance, unanswered, numbers)
        except BaseException as failure:
            self._failures.append(failure)
            raise

    def _one_association(
        self, chance: random.Random, unanswered: list[Instance], numbers: Iterable[int]
    ) -> list[Instance]:
        """Send an instance for each number; if the connection breaks, return those whose outcome is unknown."""
        study = new_uid()[:_ROOM]
        outstanding: dict[int, tuple[Instance, Sending]] = {}
        proposed = [window(self._operations)] if self._operations > 1 else []
        try:
            with RawPeer(self._address()) as peer:
                peer.send(associate_rq(user_information=proposed))
                if peer.read_pdu(_TIMEOUT).type != wire.A_ASSOCIATE_AC:
                    self._over.wait(PAUSE)
                    return unanswered
                for number in numbers:
                    if unanswered:
                        sent = unanswered.pop(0)
                        self.ledger.resent += 1
                    else:
                        sent = self._new(study, chance)
                    peer.sock.settimeout(_TIMEOUT)
                    message_id = number % 0xFFFF
                    outstanding[message_id] = sent, self._begin(sent)
                    peer.send(store_message(sent, message_id=message_id))
                    if len(outstanding) == self._operations and self._read(peer, outstanding):
                        self._over.wait(PAUSE)
                    if self._over.is_set():
                        break
                while outstanding:
                    self._read(peer, outstanding)
                peer.release()
        except TimeoutError:
            raise
        except OSError:
            self._over.wait(PAUSE)
        return [sent for sent, _ in outstanding.values()] + unanswered

    def _read(self, peer: RawPeer, outstanding: dict[int, tuple[Instance, Sending]]) -> int:
        """Read a response, record it, and return its status."""
        response = peer.read_message(_TIMEOUT)
        sent, sending = outstanding.pop(response.answered_id)
        assert response.sop_instance_uid == sent.sop_instance_uid
        sending.ended, sending.acknowledged = time.monotonic(), response.status == 0
        self._take(sent, response.status)
        return response.status

    def _new(self, study: str, chance: random.Random) -> Instance:
        if self._shared is not None and chance.random() < 0.5:
            made = self._shared.choose(chance)
        else:
            series = f"{study}.{chance.randrange(3)}"
            if self._unfiled and chance.random() < self._unfiled:
                series = ""
            made = _make(new_uid(), study, series, chance.choice(self._sizes))
        with self._recording:
            self.ledger.sent[made.sop_instance_uid] = digest(made.data_set)
        return made

    def _begin(self, instance: Instance) -> Sending:
        sending = Sending(instance.sop_instance_uid, digest(instance.data_set), time.monotonic())
        with self._recording:
            self.ledger.sendings.append(sending)
        return sending

    def _take(self, sent: Instance, status: int) -> None:
        uid = sent.sop_instance_uid
        with self._recording:
            if status == 0:
                self.ledger.acknowledged[uid] = self.ledger.sent[uid]
                self.ledger.total += 1
            else:
                self.ledger.refusals.append(f"{status:04X}")
        if status == 0:
            self._told(uid)


def _make(uid: str, study: str, series: str, size: int) -> Instance:
    ds = data_set(uid, size=size)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(study), UID(series)
    return Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, encode(ds))
