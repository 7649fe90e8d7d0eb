"""What a log line says of the Presentation Contexts that a peer has proposed.

A peer may propose 128 of them with 128 Transfer Syntaxes each, and any bytes for UIDs: named are at most 16, refused
ones first, in what one field has room for. The rest is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from dicomd.telemetry.fields import MAX_UID, MAX_VALUE, safe_text, size_of
from dicomd.upperlayer.proposals import name_of

MAX_NAMED: Final = 16
"""Presentation Contexts of one line."""
_MAX_TRANSFER_SYNTAXES: Final = 8  # named of one Presentation Context
_UID: Final = re.compile(rf"[0-9.]{{1,{MAX_UID}}}")
_ROOM_FOR_REST: Final = 256  # bytes: the sentence, and what `safe_value` keeps free at each depth
_RESULTS: Final = {
    0: "would be accepted",
    1: "user-rejection: the peer may only be SCU here",
    3: "abstract syntax not supported: a Storage SOP Class can be added to contexts.sop_classes",
    4: "transfer syntaxes not supported: add one to contexts.transfer_syntaxes",
}
_ACCEPTED: Final = 0
_WITH_TRANSFER_SYNTAXES: Final = (_ACCEPTED, 4)  # for the other results they don't matter


class Judged(Protocol):
    """A Presentation Context and its result: 0, 1, 3 or 4 of PS3.8 Table 9-18."""

    @property
    def context_id(self) -> int:
        """Its ID."""

    @property
    def abstract_syntax(self) -> str:
        """What was sent as its Abstract Syntax."""

    @property
    def transfer_syntaxes(self) -> tuple[str, ...]:
        """What was sent as its Transfer Syntaxes."""

    @property
    def more(self) -> int:
        """How many Transfer Syntaxes were sent behind these."""

    @property
    def result(self) -> int:
        """What it was given, or would have been."""


def named_contexts(contexts: Sequence[Judged], *, proposed: int, refused: int | None) -> list[Any]:
    """The field `contexts` of a line: those that are named, and a sentence on the rest.

    `proposed` and `refused` are how many there are; None for `refused` where they weren't counted, for there are more
    than can be named. `contexts` has at least those that may be named.
    """
    if refused == 0 and proposed > MAX_NAMED:
        return [f"{proposed} contexts, all acceptable"]
    first = [context for context in contexts if context.result != _ACCEPTED]
    if proposed <= MAX_NAMED:
        first += [context for context in contexts if context.result == _ACCEPTED]
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
        refused_left = refused - sum(context.result != _ACCEPTED for context in first[: len(named)])
        which = "all acceptable" if not refused_left else f"{refused_left} of them refused"
        named.append(f"and {left} more, {'all refused' if refused_left == left else which}")
    return named


def _described(context: Judged) -> dict[str, Any]:
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
