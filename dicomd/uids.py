"""Validates UIDs from the network (PS3.5 §9.1), which may become part of a path; also defines a few well-known UIDs.

Invariant: a UID that passes consists of digits and dots only, has no empty component, and has at most 64 characters.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

VERIFICATION_SOP_CLASS: Final = "1.2.840.10008.1.1"
APPLICATION_CONTEXT_NAME: Final = "1.2.840.10008.3.1.1.1"

MAX_UID_LENGTH: Final = 64

PADDING: Final = b"\0 "
_is_uid = re.compile(rb"[0-9]+(?:\.[0-9]+)*").fullmatch


def uid_from_value(value: bytes) -> str | None:
    """Return the UID in an element's value without its padding (NUL, or the space that some send); None if invalid.

    Leading zeros in a component violate PS3.5 §9.1, but they are harmless and real devices send them, so they pass.
    """
    uid = value.rstrip(PADDING)
    return uid.decode("ascii") if len(uid) <= MAX_UID_LENGTH and _is_uid(uid) else None


def recurring_uid_from_value(value: bytes) -> str | None:
    """Do the same as `uid_from_value`, with a cache: for UIDs that recur, such as those of a class, study or series."""
    return _remembered(value) if len(value) <= MAX_UID_LENGTH + 2 else uid_from_value(value)


@lru_cache(maxsize=512)
def _remembered(value: bytes) -> str | None:
    return uid_from_value(value)
