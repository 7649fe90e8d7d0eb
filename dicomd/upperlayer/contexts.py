"""Decides which proposed Presentation Contexts are accepted, and with which Transfer Syntax (PS3.8 §9.3.3.2).

A Presentation Context that can't be read is refused like one that isn't supported, so that it doesn't cost the others.

To keep large proposals cheap, only what decides is read. The Transfer Syntaxes of an Abstract Syntax that isn't
supported decide nothing, and a list that was read before in the same request isn't read again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from dicomd.context_results import ABSTRACT_SYNTAX_NOT_SUPPORTED, ACCEPTANCE, TRANSFER_SYNTAXES_NOT_SUPPORTED
from dicomd.uids import PADDING, VERIFICATION_SOP_CLASS, uid_from_value
from dicomd.upperlayer.items import ABSTRACT_SYNTAX, TRANSFER_SYNTAX, MalformedRequestError, uid_text, walk
from dicomd.upperlayer.proposals import MAX_TRANSFER_SYNTAXES, context_id, context_parts, name_of

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
UNCOMPRESSED: Final = (IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""The Transfer Syntaxes accepted for C-ECHO, which has no Data Set to encode."""


class JudgedContext(NamedTuple):
    """The result for a Presentation Context; a refused one is answered with its first Transfer Syntax.

    `problem` says what is wrong with one that can't be read, else it is "".
    """

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    result: int
    problem: str = ""


class _TransferSyntaxes:
    """Supported Transfer Syntaxes, in order of preference."""

    def __init__(self, uids: Iterable[str]) -> None:
        self._uids = tuple(dict.fromkeys(uids))
        self._ranks = {uid.encode(): rank for rank, uid in enumerate(self._uids)}

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
                item_type = sub_items[at]
                start = at + 4
                at = start + (sub_items[at + 2] << 8 | sub_items[at + 3])
                if item_type != TRANSFER_SYNTAX:
                    if item_type == ABSTRACT_SYNTAX:
                        raise MalformedRequestError("has two abstract syntaxes instead of one")
                    continue  # nobody knows it (PS3.8 §9.3.1)
                rank = rank_of(sub_items[start:at], best)
                if rank == best and start < at <= end and (sub_items[at - 1] in PADDING or sub_items[start] in PADDING):
                    # Requestors put padding around a UID, although PS3.8 Annex F allows nothing.
                    rank = rank_of(sub_items[start:at].strip(PADDING), best)
                if rank < best:  # noqa: PLR1730 - min() takes twice as long, and this is the innermost loop
                    best = rank
        except IndexError:
            raise MalformedRequestError("a sub-item ends within its header of 4 bytes") from None
        if at < end:
            message = (
                f"more than {MAX_TRANSFER_SYNTAXES} Transfer Syntaxes or unknown sub-items in a Presentation Context"
            )
            raise MalformedRequestError(message, "transfer_syntaxes")
        if at > end:
            raise MalformedRequestError(f"its last sub-item announces {at - end} bytes more than follow")
        if best < len(self._uids):
            return self._uids[best], ""
        return "", first_transfer_syntax(sub_items)


def first_transfer_syntax(sub_items: bytes) -> str:
    """Return the first one that a Presentation Context names, within its first `MAX_TRANSFER_SYNTAXES` sub-items.

    Raises `MalformedRequestError`, also if there is none.
    """
    for item_type, value in islice(walk(sub_items), MAX_TRANSFER_SYNTAXES):
        if item_type == TRANSFER_SYNTAX:
            with suppress(MalformedRequestError):
                if uid := uid_text(value):
                    return uid
    raise MalformedRequestError("has no valid Transfer Syntax")


def _abstract_syntax(value: bytes) -> str:
    uid = uid_text(value)
    if not uid:
        raise MalformedRequestError("has no abstract syntax")
    return uid


class ContextJudge:
    """Judges Presentation Contexts by what this receiver supports. Immutable, so thread-safe.

    If `sop_classes` is None, every abstract syntax is accepted; with `any_storage`, those that PS3.6 doesn't know and
    that the requestor says are of the Storage Service Class. `transfer_syntaxes` are in order of preference.
    """

    def __init__(
        self, sop_classes: Iterable[str] | None, transfer_syntaxes: Iterable[str], *, any_storage: bool = False
    ) -> None:
        self._sop_classes = None if sop_classes is None else {uid: uid for uid in sop_classes}
        self._any_storage = any_storage
        self._stored = _TransferSyntaxes(transfer_syntaxes)
        self._verification = _TransferSyntaxes(UNCOMPRESSED)

    def judge(
        self, context: bytes, known: dict[bytes, tuple[str, str]], storage_classes: Collection[str] = ()
    ) -> JudgedContext:
        """Judge one, as `read_proposal` cuts it out. `known` is a cache that starts empty with each request.

        `storage_classes` are those that the requestor says are of the Storage Service Class. Raises
        `MalformedRequestError` for a context that can't be answered, or exceeds a limit.
        """
        number = context_id(context)
        abstract_syntax, result = "", ABSTRACT_SYNTAX_NOT_SUPPORTED
        try:
            sent, sub_items = context_parts(context)
            abstract_syntax = _abstract_syntax(sent)
            if not self._is_supported(abstract_syntax, storage_classes):
                return JudgedContext(number, abstract_syntax, first_transfer_syntax(sub_items), result)
            result = TRANSFER_SYNTAXES_NOT_SUPPORTED
            chosen, first = self._choose(abstract_syntax, sub_items, known)
        except MalformedRequestError as error:
            if error.limit == "transfer_syntaxes":
                raise
            return JudgedContext(number, abstract_syntax, IMPLICIT_VR_LITTLE_ENDIAN, result, str(error))
        if self._sop_classes is not None:  # one string object is shared by all Associations
            abstract_syntax = self._sop_classes.get(abstract_syntax, abstract_syntax)
        if chosen:
            return JudgedContext(number, abstract_syntax, chosen, ACCEPTANCE)
        return JudgedContext(number, abstract_syntax, first, TRANSFER_SYNTAXES_NOT_SUPPORTED)

    def _is_supported(self, abstract_syntax: str, storage_classes: Collection[str]) -> bool:
        if (
            self._sop_classes is None
            or abstract_syntax in self._sop_classes
            or abstract_syntax == VERIFICATION_SOP_CLASS
        ):
            return True
        if not self._any_storage or abstract_syntax not in storage_classes:
            return False
        return uid_from_value(abstract_syntax.encode()) is not None and not name_of(abstract_syntax)

    def _choose(self, abstract_syntax: str, sub_items: bytes, known: dict[bytes, tuple[str, str]]) -> tuple[str, str]:
        if abstract_syntax == VERIFICATION_SOP_CLASS:
            # C-ECHO has no Data Set, so the order of preference for stored instances doesn't apply.
            return self._verification.choose(sub_items)
        found = known.get(sub_items)
        if found is None:
            found = known[sub_items] = self._stored.choose(sub_items)
        return found
