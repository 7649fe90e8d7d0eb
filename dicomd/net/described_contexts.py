"""Describes the Presentation Contexts that a peer has proposed, for a log line.

A peer may propose 128 of them with 128 Transfer Syntaxes each, and any bytes as UIDs. So at most 16 are named, refused
ones first, as far as one field has room. The rest is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from dicomd.context_results import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTANCE,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
)
from dicomd.telemetry.fields import MAX_UID, MAX_VALUE, safe_text, size_of
from dicomd.upperlayer.proposals import ProposedContext, name_of

MAX_NAMED: Final = 16
"""Presentation Contexts that one line names."""
_MAX_TRANSFER_SYNTAXES: Final = 8  # that are named for one Presentation Context
_UID: Final = re.compile(rf"[0-9.]{{1,{MAX_UID}}}")
_ROOM_FOR_REST: Final = 256  # bytes for the sentence, and for what `safe_value` keeps free at each depth
_RESULTS: Final = {
    ACCEPTANCE: "would be accepted",
    USER_REJECTION: "user-rejection: the peer may only be SCU here",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: (
        "abstract syntax not supported: a Storage SOP Class can be added to contexts.sop_classes"
    ),
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "transfer syntaxes not supported: add one to contexts.transfer_syntaxes",
}
_WITH_TRANSFER_SYNTAXES: Final = (ACCEPTANCE, TRANSFER_SYNTAXES_NOT_SUPPORTED)  # other results don't depend on them


def named_contexts(contexts: Sequence[ProposedContext], *, proposed: int, refused: int | None) -> list[Any]:
    """The field `contexts` of a line: those that are named, and a sentence about the rest.

    `proposed` and `refused` are how many there are; `refused` is None if they weren't counted because there are more
    than can be named. `contexts` has at least those that may be named.
    """
    if refused == 0 and proposed > MAX_NAMED:
        return [f"{proposed} contexts, all acceptable"]
    first = [context for context in contexts if context.result != ACCEPTANCE]
    if proposed <= MAX_NAMED:
        first += [context for context in contexts if context.result == ACCEPTANCE]
    named: list[Any] = []
    room = MAX_VALUE - _ROOM_FOR_REST
    for context in first[:MAX_NAMED]:
        described = _described(context)
        room -= size_of(described) + 1
        if room < 0:
            break
        named.append(described)
    if left := proposed - len(named):
        if refused is None:
            named.append(f"and {left} more")
            return named
        refused_left = refused - sum(context.result != ACCEPTANCE for context in first[: len(named)])
        which = "all acceptable" if not refused_left else f"{refused_left} of them refused"
        named.append(f"and {left} more, {'all refused' if refused_left == left else which}")
    return named


def _described(context: ProposedContext) -> dict[str, Any]:
    described: dict[str, Any] = {
        "context_id": context.context_id,
        "abstract_syntax": safe_text(context.abstract_syntax, MAX_UID),
    }
    if _UID.fullmatch(context.abstract_syntax) and (name := name_of(context.abstract_syntax)):
        described["name"] = name
    if context.result in _WITH_TRANSFER_SYNTAXES:
        syntaxes = [safe_text(uid, MAX_UID) for uid in context.transfer_syntaxes[:_MAX_TRANSFER_SYNTAXES]]
        more = len(context.transfer_syntaxes) - len(syntaxes) + context.more
        described["transfer_syntaxes"] = [*syntaxes, f"and {more} more"] if more else syntaxes
    return described | {"result": context.result, "advice": _RESULTS.get(context.result, "")}
