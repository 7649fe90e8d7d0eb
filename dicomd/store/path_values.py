"""Makes the values of a layout's placeholders that aren't UIDs safe for a path.

Invariant: a value consists of letters, digits, "_", "." and "-" only, doesn't begin with a dot or a hyphen, and is
bounded. Any other byte is percent-encoded, so two different AE Titles, peers or modalities never get the same value,
and neither gets one that means something else: "none", which stands for an absent value, and `unfiled`, a folder of the
store's own, have their first letter encoded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from string import ascii_letters, digits
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from dicomd.ae_titles import MAX_LENGTH, legal_ae_title
from dicomd.layouts import ABSENT, ESCAPE, MAX_MODALITY, UNFILED
from dicomd.store.head import MAX_VALUE
from dicomd.store.types import InstanceIdentity
from dicomd.tags import MODALITY, STUDY_DATE
from dicomd.uids import PADDING

NO_PEER: Final = "unknown"
"""Stands for the peers without an entry; it can't be the name of one."""
_RESERVED: Final = frozenset({ABSENT, UNFILED})
_PLAIN: Final = frozenset(f"{ascii_letters}{digits}_.-".encode())
_NOT_FIRST: Final = frozenset(b".-")  # would hide a folder, or be taken for an option by the shell's commands
_is_modality: Final = re.compile(rb"[A-Z0-9_ ]+").fullmatch
_is_date: Final = re.compile(rb"(\d{4})(\.?)(\d\d)\2(\d\d)").fullmatch


class PathValues(NamedTuple):
    """The values of all placeholders that aren't UIDs, each safe for a path."""

    called_ae_title: str
    calling_ae_title: str
    peer: str
    modality: str
    study_date: str
    received_date: str


def path_values(identity: InstanceIdentity, elements: Mapping[int, bytes], received_date: str) -> PathValues:
    """Return the values of an instance; `elements` are those found in its Data Set, by tag, with their padding."""
    return PathValues(
        ae_title_value(identity.called_ae_title),
        ae_title_value(identity.calling_ae_title),
        peer_value(identity.peer),
        modality_value(elements.get(MODALITY, b"")),
        study_date_value(elements.get(STUDY_DATE, b"")),
        received_date,
    )


def ae_title_value(title: str) -> str:
    """Return the value of an AE Title as received (`ae_titles.received_ae_title`): Latin-1, maybe invalid or empty."""
    return _encoded(title[:MAX_LENGTH].encode("latin-1", "replace")) if title else ABSENT


def peer_value(name: str) -> str:
    """Return the value of a peer's name, "" for one without an entry."""
    return _encoded(name.encode()) if name else NO_PEER


def modality_value(value: bytes) -> str:
    """Return the value of Modality (0008,0060), which is of VR CS: "none" if it is absent, empty or invalid."""
    modality = value.strip(PADDING)
    if len(value) >= MAX_VALUE or len(modality) > MAX_MODALITY or not _is_modality(modality):
        return ABSENT
    return _encoded(modality).replace("_", f"{ESCAPE}5F")  # so that "_" can separate it from what follows


def study_date_value(value: bytes) -> str:
    """Return the value of Study Date (0008,0020), of VR DA, as YYYYMMDD: "none" if it is absent, empty or no date.

    YYYY.MM.DD, the form of ACR-NEMA (PS3.5 §6.2), is the same date.
    """
    found = _is_date(value.strip(PADDING)) if len(value) < MAX_VALUE else None
    return ABSENT if found is None else _valid_date((found[1] + found[3] + found[4]).decode()) or ABSENT


def received_date_value() -> str:
    """Return the present date in UTC, as YYYYMMDD."""
    return time.strftime("%Y%m%d", time.gmtime())


def may_be_of_title(value: str, title: str) -> bool:
    """Whether a value in a path may be that of an AE Title, `title` being the legal form of it in a file."""
    sent = _decoded(value)
    return value == ABSENT and not title if sent is None else bool(sent) and legal_ae_title(sent) == title


def may_be_a_title(value: str) -> bool:
    """Whether a value in a path may be that of any AE Title."""
    sent = _decoded(value)
    return value == ABSENT if sent is None else 0 < len(sent) <= MAX_LENGTH


def may_be_a_peer(value: str) -> bool:
    """Whether a value in a path may be that of any peer: its name may have been another when the file was stored."""
    return _decoded(value) is not None


def may_be_a_date(value: str) -> bool:
    """Whether a value in a path may be a date of reception."""
    return _is_date(value.encode()) is not None and _valid_date(value) is not None


@lru_cache(maxsize=512)
def _encoded(value: bytes) -> str:
    text = "".join(chr(byte) if byte in _PLAIN else f"{ESCAPE}{byte:02X}" for byte in value)
    if value[0] in _NOT_FIRST or text in _RESERVED:
        return f"{ESCAPE}{value[0]:02X}{text[1:]}"
    return text


def _decoded(text: str) -> str | None:
    """Return what was encoded, as Latin-1; None if the text isn't the encoding of anything."""
    value = unquote_to_bytes(text)
    return value.decode("latin-1") if value and _encoded(value) == text else None


@lru_cache(maxsize=512)
def _valid_date(text: str) -> str | None:
    try:
        date.fromisoformat(text)
    except ValueError:
        return None
    return text
