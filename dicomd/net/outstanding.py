"""The operations of one Association that are not answered yet, and the waits of its thread for them.

Invariants: there are never more than the negotiated number. A Message ID or a SOP Instance UID that is outstanding
isn't begun again: its response could not be told from the first one's, and two commits of one instance at the same time
could end in another order than the peer sent them, so that `replace` would keep the older one. And once the Association
is interrupted, none is begun.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class PendingResponses(Protocol):
    """Responses that only the Association's thread can send."""

    @property
    def pending(self) -> bool:
        """Whether there are any."""

    def send_pending(self) -> None:
        """Send them. Never raises."""


class OutstandingOperations:
    """Up to `most` operations. The Association's thread begins them and waits; other threads end them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._message_ids: set[int] = set()
        self._instances: set[str] = set()
        self._interruption: Exception | None = None
        self._last_ended = time.monotonic()

    def begin(self, message_id: int, sop_instance_uid: str, responses: PendingResponses) -> None:
        """Count an operation in, as soon as there is room and neither of its two names is outstanding.

        Sends `responses` while it waits. Raises what `interrupt` was given; then the operation isn't counted in.
        """
        with self._changed:
            while (
                self._interruption is not None
                or len(self._message_ids) >= self._most
                or message_id in self._message_ids
                or sop_instance_uid in self._instances
            ):
                self._wait(responses)
            self._message_ids.add(message_id)
            self._instances.add(sop_instance_uid)

    def await_message_id(self, message_id: int, responses: PendingResponses) -> None:
        """Wait until no request with this Message ID is outstanding, otherwise like `begin`."""
        with self._changed:
            while self._interruption is not None or message_id in self._message_ids:
                self._wait(responses)

    def end(self, message_id: int, sop_instance_uid: str) -> None:
        """Count out an operation with which everything is done, whether or not its response could be sent."""
        with self._changed:
            self._message_ids.remove(message_id)
            self._instances.remove(sop_instance_uid)
            self._last_ended = time.monotonic()
            self._changed.notify_all()

    def wait_for_all(self, responses: PendingResponses) -> None:
        """Wait until none is outstanding, interrupted or not, and send `responses` meanwhile."""
        with self._changed:
            while self._message_ids:
                self._send_or_wait(responses)

    def interrupt(self, error: Exception) -> None:
        """End the waits of the Association's thread, now and later, with `error`; the first one counts."""
        with self._changed:
            self._interruption = self._interruption or error
            self._changed.notify_all()

    def forget_interruption(self) -> None:
        """Let go of what `interrupt` was given, once nothing waits here any more: its traceback may lead back here."""
        with self._changed:
            self._interruption = None

    def check(self) -> None:
        """Raise what `interrupt` was given, if it was called."""
        if self._interruption is not None:
            raise self._interruption

    def notify(self) -> None:
        """Have a waiting Association's thread send its `responses`."""
        with self._changed:
            self._changed.notify_all()

    def quiet_since(self) -> float | None:
        """When the last operation ended, on the monotonic clock; None while one is outstanding."""
        with self._changed:
            return None if self._message_ids else self._last_ended

    def _wait(self, responses: PendingResponses) -> None:
        self.check()
        self._send_or_wait(responses)

    def _send_or_wait(self, responses: PendingResponses) -> None:
        if not responses.pending:
            self._changed.wait()
            return
        self._changed.release()
        try:
            responses.send_pending()
        finally:
            self._changed.acquire()
