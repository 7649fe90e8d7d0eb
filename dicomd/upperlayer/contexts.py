"""Decides which proposed Presentation Contexts are accepted, and with which Transfer Syntax (PS3.8 §9.3.3.2).

To keep large proposals cheap, only what decides is read. The Transfer Syntaxes of an Abstract Syntax that isn't
supported decide nothing, and a list that was read before in the same request isn't read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from dicomd.context_results import ABSTRACT_SYNTAX_NOT_SUPPORTED, ACCEPTANCE, TRANSFER_SYNTAXES_NOT_SUPPORTED
from dicomd.uids import VERIFICATION_SOP_CLASS
from dicomd.upperlayer.items import LONGEST_UID, TRANSFER_SYNTAX, MalformedRequestError, uid_text, walk
from dicomd.upperlayer.proposals import MAX_TRANSFER_SYNTAXES, context_parts

UNCOMPRESSED: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""The Transfer Syntaxes accepted for C-ECHO, which has no Data Set to encode."""

_PADDED: Final = tuple((before, behind) for before in (b"", b" ") for behind in (b"", b"\0", b" ", b"  ", b" \0"))
"""What requestors put around a UID, although PS3.8 Annex F allows nothing."""


class JudgedContext(NamedTuple):
    """The result for a Presentation Context; a refused one is answered with its first Transfer Syntax."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    result: int


class _TransferSyntaxes:
    """Supported Transfer Syntaxes, in order of preference."""

    def __init__(self, uids: Iterable[str]) -> None:
        self._uids = tuple(dict.fromkeys(uids))
        self._ranks = {
            before + uid.encode() + behind: rank for rank, uid in enumerate(self._uids) for before, behind in _PADDED
        }

    def choose(self, sub_items: bytes) -> tuple[str, str]:
        """Return the preferred one of those proposed, empty if none is supported, and the first one proposed.

        Raises `MalformedRequestError`.
        """
        rank_of = self._ranks.get
        best = len(self._uids)
        at = 0
        end = len(sub_items)
        try:
            for _ in range(MAX_TRANSFER_SYNTAXES):
                if at >= end:
                    break
                if sub_items[at] != TRANSFER_SYNTAX:
                    raise MalformedRequestError(f"item {sub_items[at]:02X}H among Transfer Syntaxes")
                start = at + 4
                at = start + (sub_items[at + 2] << 8 | sub_items[at + 3])
                if at - start >= LONGEST_UID:
                    uid_text(sub_items[start:at])
                rank = rank_of(sub_items[start:at], best)
                if rank < best:  # noqa: PLR1730 - min() takes twice as long, and this is the innermost loop
                    best = rank
        except IndexError:
            raise MalformedRequestError("an item is cut short") from None
        if at < end:
            message = f"more than {MAX_TRANSFER_SYNTAXES} Transfer Syntaxes in a Presentation Context"
            raise MalformedRequestError(message, "transfer_syntaxes")
        if at > end:
            raise MalformedRequestError("a Transfer Syntax is longer than its Presentation Context")
        if not sub_items.isascii():
            for _, value in walk(sub_items):
                uid_text(value)
        return self._uids[best] if best < len(self._uids) else "", first_transfer_syntax(sub_items)


def first_transfer_syntax(sub_items: bytes) -> str:
    """Return the first one that a Presentation Context names. Raises `MalformedRequestError`, also if there is none."""
    for item_type, value in walk(sub_items):
        if item_type == TRANSFER_SYNTAX and (uid := uid_text(value)):
            return uid
    raise MalformedRequestError("a Presentation Context without Transfer Syntax")


class ContextJudge:
    """Judges Presentation Contexts by what this receiver supports. Immutable, so thread-safe.

    If `sop_classes` is None, every abstract syntax is accepted; `transfer_syntaxes` are in order of preference.
    """

    def __init__(self, sop_classes: Iterable[str] | None, transfer_syntaxes: Iterable[str]) -> None:
        self._sop_classes = None if sop_classes is None else {uid: uid for uid in sop_classes}
        self._stored = _TransferSyntaxes(transfer_syntaxes)
        self._verification = _TransferSyntaxes(UNCOMPRESSED)

    def judge(self, context: bytes, known: dict[bytes, tuple[str, str]]) -> JudgedContext:
        """Judge one, as `read_proposal` cuts it out. `known` is a cache that starts empty with each request.

        Raises `MalformedRequestError`.
        """
        context_id, sent, sub_items = context_parts(context)
        abstract_syntax = uid_text(sent)
        if abstract_syntax == VERIFICATION_SOP_CLASS:
            # C-ECHO has no Data Set, so the order of preference for stored instances doesn't apply.
            chosen, first = self._verification.choose(sub_items)
        elif not abstract_syntax:
            raise MalformedRequestError("a Presentation Context without abstract syntax")
        elif self._sop_classes is not None and abstract_syntax not in self._sop_classes:
            first = first_transfer_syntax(sub_items)
            return JudgedContext(context_id, abstract_syntax, first, ABSTRACT_SYNTAX_NOT_SUPPORTED)
        else:
            found = known.get(sub_items)
            if found is None:
                found = known[sub_items] = self._stored.choose(sub_items)
            chosen, first = found
            if self._sop_classes is not None:
                abstract_syntax = self._sop_classes[abstract_syntax]  # one string object shared by all Associations
        if chosen:
            return JudgedContext(context_id, abstract_syntax, chosen, ACCEPTANCE)
        return JudgedContext(context_id, abstract_syntax, first, TRANSFER_SYNTAXES_NOT_SUPPORTED)
