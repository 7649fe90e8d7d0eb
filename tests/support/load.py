"""Senders that store without a pause, as a department does in the morning.

Invariant: every instance that was answered with success is recorded with its Data Set, and so is every answer or
connection that failed, so that a test can check afterwards that nothing acknowledged is lost, and see what failed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from tests.support.objects import Instance, instance
from tests.support.part10 import StoredFile
from tests.support.raw_peer import RawPeer

_PAUSE = 0.05  # seconds before another try


class Receiver(Protocol):
    """The receiver of the load, and the instances that it has stored."""

    @property
    def address(self) -> tuple[str, int]: ...

    def stored(self) -> Sequence[StoredFile]: ...


class Load:
    """A context manager: `senders` threads that open an Association, store `instances`, release, again and again."""

    def __init__(self, daemon: Receiver, *, senders: int = 2, instances: int = 3, size: int = 2000) -> None:
        self._daemon, self._instances, self._size = daemon, instances, size
        self.acknowledged: dict[str, bytes] = {}
        """SOP Instance UID → Data Set."""
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, name="sender") for _ in range(senders)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start sending."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until each sender has finished its Association."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def lost(self) -> list[str]:
        """The instances that were answered with success but are not in the store as they were sent."""
        kept = {file.sop_instance_uid: file.data_set for file in self._daemon.stored()}
        return [uid for uid, data_set in self.acknowledged.items() if kept.get(uid) != data_set]

    def _send(self) -> None:
        while not self._over.is_set():
            try:
                with RawPeer(self._daemon.address) as peer:
                    peer.associate()
                    for _ in range(self._instances):
                        self._store(peer, instance(size=self._size))
                    peer.release()
            except (OSError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                self._over.wait(_PAUSE)

    def _store(self, peer: RawPeer, sent: Instance) -> None:
        status = peer.store(sent).status
        assert status == 0, f"status {status:04X}"
        self.acknowledged[sent.sop_instance_uid] = sent.data_set
