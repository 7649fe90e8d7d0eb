"""What a store can have too little of. Its errors say which, and the log line says what to do about it."""

from __future__ import annotations

import enum


class Lack(enum.Enum):
    """What there is too little of, each with the message that says so, which may be sent to a peer."""

    SPACE = "No space left in the store"
    """Bytes or inodes: the system has one errno for both."""
    RESERVE = "Free space is below the reserve"
    INODES = "Free inodes are below the reserve"
    QUOTA = "Disk quota of the store is used up"
    FILE_SIZE = "Object is larger than the file system allows"
