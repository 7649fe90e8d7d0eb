"""What a requestor proposed, read for the log of one that wasn't let in.

The rule it keeps: a peer that isn't let in costs no negotiation. Its items are only walked, and each Presentation
Context is judged by the two lists of this receiver; roles, which no Storage SCU asks for, are left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from pydicom.uid import UID

from dicomd.uids import VERIFICATION_SOP_CLASS
from dicomd.upperlayer.items import (
    ABSTRACT_SYNTAX,
    PRESENTATION_CONTEXT,
    TRANSFER_SYNTAX,
    MalformedRequestError,
    walk,
)

MAX_SHOWN: Final = 128
"""Presentation Contexts of one request (PS3.8 §9.3.2.2)."""
UNCOMPRESSED: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""The Transfer Syntaxes of a Presentation Context for C-ECHO, which has no Data Set to encode."""
_ACCEPTANCE, _ABSTRACT_SYNTAX_NOT_SUPPORTED, _TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4


class ProposedContext(NamedTuple):
    """A proposed Presentation Context; `result` is what it would have been given: 0, 3 or 4 of PS3.8 Table 9-18."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    result: int


def judged(
    variable_items: bytes, sop_classes: Collection[str] | None, transfer_syntaxes: Collection[str]
) -> list[ProposedContext]:
    """The Presentation Contexts of a request, up to the first that can't be read; `sop_classes` None takes all."""
    found: list[ProposedContext] = []
    try:
        for item_type, item in walk(variable_items):
            if item_type == PRESENTATION_CONTEXT and len(item) >= 8 and len(found) < MAX_SHOWN:
                found.append(_judge(item, sop_classes, transfer_syntaxes))
    except MalformedRequestError:
        pass  # nobody decoded it for the answer either: what could be read is what the log has
    return found


def name_of(uid: str) -> str:
    """What PS3.6 calls the UID; empty for one it doesn't have."""
    name = UID(uid).name
    return "" if name == uid else name


def _judge(item: bytes, sop_classes: Collection[str] | None, supported: Collection[str]) -> ProposedContext:
    abstract_syntax, proposed = "", list[str]()
    for item_type, sub_item in walk(item[8:]):
        uid = sub_item[4:].decode("ascii", "backslashreplace").strip(" \0")
        if item_type == ABSTRACT_SYNTAX:
            abstract_syntax = uid
        elif item_type == TRANSFER_SYNTAX:
            proposed.append(uid)
    is_verification = abstract_syntax == VERIFICATION_SOP_CLASS
    if is_verification:
        supported = UNCOMPRESSED
    if not is_verification and sop_classes is not None and abstract_syntax not in sop_classes:
        result = _ABSTRACT_SYNTAX_NOT_SUPPORTED
    else:
        result = _ACCEPTANCE if any(uid in supported for uid in proposed) else _TRANSFER_SYNTAXES_NOT_SUPPORTED
    return ProposedContext(item[4], abstract_syntax, tuple(proposed), result)
