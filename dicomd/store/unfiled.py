"""Keeps instances that can't be filed, if `storage.unfiled` says so, in a folder where nobody takes them for others.

Their Data Sets can't be read far enough to check whose they are, or lack a UID that the layout needs. All that is
certain is what the command says, and that makes their names and their File Meta Information. They are published as
every instance is, with two differences. Whatever `storage.duplicates` says, none is replaced or refused because of
another one with its SOP Instance UID: nobody knows whether the two are the same instance. And the folder has a limit,
since somebody has to look at what is in it: beyond that, instances are refused as if they weren't kept.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from dicomd.layouts import SUFFIX, UNFILED
from dicomd.store.directories import Directories
from dicomd.store.duplicates import Candidate
from dicomd.store.errors import StoreError
from dicomd.store.failure_sink import FailureSink
from dicomd.store.layout import Place, refuse_uid
from dicomd.store.publish import Publisher
from dicomd.store.settings import StoreSettings
from dicomd.store.types import Refusal, Stored
from dicomd.tags import SOP_INSTANCE_UID
from dicomd.uids import uid_from_value

MOST: Final = 100_000
"""Files in the folder beyond which none is admitted. Each process may add `_AT_ONCE`, and those that it is receiving,
before it counts again."""
_AT_ONCE: Final = 100
_PAUSE: Final = 1.0  # seconds between two counts of a full folder, each of which takes up to a tenth of a second


def unfiled_place(sop_instance_uid: str) -> Place:
    """Return where an instance is kept that can't be filed. Raises ``LayoutElementInvalid`` if this isn't a UID."""
    uid = uid_from_value(sop_instance_uid.encode("ascii", "replace")) or refuse_uid(SOP_INSTANCE_UID)
    return Place(UNFILED, f"{uid}{SUFFIX}")


class Unfiled:
    """The folder of unfiled instances; shared by the threads of a process."""

    def __init__(self, directories: Directories, settings: StoreSettings, failures: FailureSink) -> None:
        """Whether the folder is used at all, `keeps`, is for `settings` to say."""
        self.keeps = settings.unfiled == "keep"
        self._folder = f"{directories.root}/{UNFILED}"
        self._publisher = Publisher(directories, synced=settings.synced, duplicates="keep-both", failures=failures)
        self._lock = threading.Lock()
        self._left = 0  # files that may be added before the next count
        self._next_count = 0.0  # time.monotonic

    def admit(self, error: StoreError) -> Refusal:
        """Return what an instance would be refused with that can't be filed because of the error, and is to be kept.

        Raises the error if it is to be refused: because none is kept, or because the folder is full. In that case the
        `operation` of the error is `UNFILED`, by which the log line and the metric of the limit know.
        """
        if not self.keeps:
            raise error
        if not self._has_room():
            error.operation = UNFILED
            raise error
        return Refusal(error.status, error.message)

    def publish(self, candidate: Candidate, place: Place, refusal: Refusal) -> Stored:
        """Publish an instance that was admitted. Raises ``StoreError``, as a publisher does."""
        return self._publisher.publish(candidate, place)._replace(refusal=refusal)

    def _has_room(self) -> bool:
        with self._lock:
            if self._left <= 0 and time.monotonic() >= self._next_count:
                self._left = min(_AT_ONCE, MOST - self._count())
                self._next_count = time.monotonic() + _PAUSE if self._left <= 0 else 0.0
            self._left -= 1
            return self._left >= 0

    def _count(self) -> int:
        try:
            with os.scandir(self._folder) as entries:
                return sum(1 for _ in entries)
        except OSError:
            return 0  # it isn't there yet, or publishing will meet the cause
