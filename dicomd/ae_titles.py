"""What an AE Title is (PS3.5 §6.2, VR AE).

It has 1 to 16 characters of the default character repertoire, which is ASCII, without backslash and control characters.
Leading and trailing spaces are padding, so a title never consists of spaces only.
"""

from __future__ import annotations

from typing import Final

MAX_LENGTH: Final = 16
CHARACTERS: Final = frozenset(map(chr, range(0x20, 0x7F))) - {"\\"}
_PADDING: Final = " "


def without_padding(text: str) -> str:
    """Return the text without leading and trailing spaces."""
    return text.strip(_PADDING)


def is_ae_title(text: str) -> bool:
    """Whether the text is a valid AE Title, without padding."""
    return 0 < len(text) <= MAX_LENGTH and CHARACTERS.issuperset(text)


def received_ae_title(field: bytes) -> str:
    """Return the text in a field of an A-ASSOCIATE-RQ without padding (NUL, too, which some send); it may be invalid.

    Latin-1 preserves whatever was sent, for the log; admission judges whether it is an AE Title.
    """
    return field.decode("latin-1").strip(_PADDING + "\0")


def legal_ae_title(text: str) -> str:
    """Make a valid value of VR AE, which may be empty: replace forbidden characters by "?", truncate to 16 characters.

    Titles are compared with the configuration as they were received, but an invalid one must not make File Meta
    unreadable.
    """
    return without_padding("".join(c if c in CHARACTERS else "?" for c in text[:MAX_LENGTH]))
