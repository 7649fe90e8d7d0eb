"""The events that an operator may search for, count or alert on, each with its journal MESSAGE_ID.

Invariant: an ID never changes its meaning and is never reused. ``packaging/dicomd.catalog`` explains each one
to ``journalctl -x``. Every other event is a plain string without an ID.
"""

from enum import StrEnum
from typing import Self


class Message(StrEnum):
    """An event, whose text is the ``event`` of console and JSON lines.

    ``message_id`` is the journal's MESSAGE_ID, 32 lower-case hex digits.
    """

    message_id: str

    def __new__(cls, event: str, message_id: str) -> Self:
        """Make the text the member's value, and the ID an attribute."""
        member = str.__new__(cls, event)
        member._value_ = event
        member.message_id = message_id
        return member

    STARTED = "started", "551ff59224984777a2d6d988cbd83a4b"
    CONFIG_APPLIED = "config applied", "de2732fec4d342d79d6690cbd1d581f5"
    CONFIG_REJECTED = "config rejected", "604bd8f5a46a4a3abc5a48bfb78fe1f1"
    STOPPING = "stopping", "ec17084cde584a3bad322c3fe4377085"
    ASSOCIATION_ENDED = "association ended", "29e06ec0c8f743a7835cb5f8f5fb2872"
    ASSOCIATION_REJECTED = "association rejected", "e70ed4f3ba9d436b8f3aaef4f6f5bafa"
    INSTANCE_STORED = "instance stored", "b2f4d30132e747a78993ad35c073b0fd"
    INSTANCE_UNFILED = "instance unfiled", "10c35df0529c452cb0e1e0ed3dde171e"
    STORE_FAILED = "store failed", "73142fd5a4444e19a6ac323951d4eed0"
    SPACE_LOW = "space low", "bd340c9e101f4b4aac81fef3b0ad35a1"
    SPACE_RECOVERED = "space recovered", "2d06110c52f24b379ca042730a1029a9"
    STORE_UNAVAILABLE = "store unavailable", "d595429d15af4525941b296928587dc8"
    STORE_RECOVERED = "store recovered", "84a4eb89089f4e50960928a7eb58425c"
    WORKER_DIED = "worker died", "863a0f8680604a8a8130eb2bd1444736"
    INTERNAL_ERROR = "internal error", "4fed3466510445d39c0e26e997e9028b"
