"""Reads a proposal, the variable items of an A-ASSOCIATE-RQ (PS3.8 §9.3.2, PS3.7 Annex D), in one pass.

Invariant: the number of items is bounded before they are read. An unknown item is skipped (PS3.8 §9.3.1), and so is a
sub-item of the User Information that can't be read: without it the Association is as good, and a scanner can't be
changed. What was skipped is named, for the log. Presentation Contexts are only cut out here, since most of their bytes
need never be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pydicom.uid import UID

from dicomd.upperlayer.items import (
    ABSTRACT_SYNTAX,
    APPLICATION_CONTEXT,
    PRESENTATION_CONTEXT,
    TRANSFER_SYNTAX,
    USER_INFORMATION,
    MalformedRequestError,
    encoded,
    uid_text,
    walk,
)

MAX_ITEMS: Final = 256
"""In one request; the standard defines at most 128 Presentation Contexts and two others."""
MAX_CONTEXTS: Final = 128
"""Presentation Context IDs are the odd numbers from 1 to 255 (PS3.8 §9.3.2.2)."""
MAX_SUB_ITEMS: Final = 1024
"""Of User Information in one request; normal are at most a role selection for each of 128 contexts and a few others."""
MAX_TRANSFER_SYNTAXES: Final = 128
"""In one Presentation Context, sub-items that nobody knows included; there are about 60 in PS3.6."""
MAX_SHOWN: Final = 16
"""How many Presentation Contexts of a request, and Transfer Syntaxes of each, are kept to be shown."""

# User Information sub-items (PS3.7 §D.3.3, PS3.8 Annex D).
_MAXIMUM_LENGTH = 0x51
_IMPLEMENTATION_CLASS_UID = 0x52
_ASYNCHRONOUS_OPERATIONS = 0x53
_ROLE_SELECTION = 0x54
_IMPLEMENTATION_VERSION_NAME = 0x55
_EXTENDED_NEGOTIATION = 0x56
_COMMON_EXTENDED_NEGOTIATION = 0x57
_SUB_ITEMS: Final = {
    _MAXIMUM_LENGTH: "Maximum Length",
    _IMPLEMENTATION_CLASS_UID: "Implementation Class UID",
    _ASYNCHRONOUS_OPERATIONS: "Asynchronous Operations Window",
    _ROLE_SELECTION: "SCP/SCU Role Selection",
    _IMPLEMENTATION_VERSION_NAME: "Implementation Version Name",
    _EXTENDED_NEGOTIATION: "SOP Class Extended Negotiation",
    _COMMON_EXTENDED_NEGOTIATION: "SOP Class Common Extended Negotiation",
}
_STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"
_LONGEST_VERSION_NAME = 16  # characters (PS3.7 §D.3.3.2.3)
_LONGEST_SHOWN = 80  # bytes of a UID: enough to show that it is too long
_CONTEXT_FIXED = 4  # bytes of a Presentation Context before its sub-items: the ID and three reserved ones


class UserInformation(NamedTuple):
    """The part of the User Information that an acceptor answers or keeps (PS3.7 §D.3.3).

    `max_pdu` is the peer's limit in bytes, 0 for none; `roles` are those proposed for SOP Classes, as (SCU, SCP);
    `extended` are the SOP Classes with an extended negotiation, and `storage_classes` those whose common extended
    negotiation names the Storage Service Class (PS3.7 §D.3.3.6). `operations_invoked` is how many operations it wants
    to have outstanding, 0 for any number; None if it proposes no Asynchronous Operations Window (PS3.7 §D.3.3.3).
    """

    max_pdu: int
    implementation_class_uid: str
    implementation_version_name: str
    operations_invoked: int | None
    roles: dict[str, tuple[bool, bool]]
    extended: tuple[str, ...]
    storage_classes: frozenset[str]


class Proposal(NamedTuple):
    """The items of a request; `contexts` are the unread values of its Presentation Context items, ID first.

    `skipped` describes up to `MAX_SHOWN` sub-items that can't be read.
    """

    application_context_name: str
    contexts: list[bytes]
    user_information: UserInformation
    skipped: tuple[str, ...]


class ContextIDError(MalformedRequestError):
    """A Presentation Context without a valid ID, which can't even be refused."""


class RefusedContext(NamedTuple):
    """The beginning of a Presentation Context with its first `MAX_SHOWN` Transfer Syntaxes, after which `more` follow.

    It is kept as it was sent for as long as the Association is open, since decoded texts would need twice the memory.
    """

    beginning: bytes
    more: int
    result: int


class ProposedContext(NamedTuple):
    """A proposed Presentation Context, to be shown; `result` is the result that it got, or would have got.

    That is 0, 1, 3 or 4 of PS3.8 Table 9-18; `more` is how many Transfer Syntaxes it had after the first `MAX_SHOWN`.
    """

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    more: int
    result: int


def read_proposal(variable_items: bytes) -> Proposal:
    """Read the variable items of an A-ASSOCIATE-RQ. Raises `MalformedRequestError`."""
    name: str | None = None
    contexts: list[bytes] = []
    user_information: list[bytes] = []
    for count, (item_type, value) in enumerate(walk(variable_items)):
        if count >= MAX_ITEMS:
            raise MalformedRequestError(f"more than {MAX_ITEMS} items", "items")
        if item_type == PRESENTATION_CONTEXT:
            if len(contexts) == MAX_CONTEXTS:
                raise MalformedRequestError(f"more than {MAX_CONTEXTS} Presentation Contexts", "presentation_contexts")
            contexts.append(value)
        elif item_type == APPLICATION_CONTEXT:
            text = _application_context_name(value)
            name = text if name is None else name
        elif item_type == USER_INFORMATION:
            user_information.append(value)
    skipped: list[str] = []
    found = _read_user_information(user_information, skipped)
    return Proposal(name or "", contexts, found, tuple(skipped[:MAX_SHOWN]))


def _application_context_name(value: bytes) -> str:
    try:
        return uid_text(value)
    except MalformedRequestError as error:
        raise MalformedRequestError(f"the Application Context Name {error}", error.limit) from None


def context_id(context: bytes) -> int:
    """Return the ID of a Presentation Context. Raises `ContextIDError`."""
    if not context:
        raise ContextIDError("a Presentation Context is empty")
    if not context[0] & 1:
        raise ContextIDError(f"Presentation Context ID {context[0]} is not an odd number from 1 to 255")
    return context[0]


def context_parts(context: bytes) -> tuple[bytes, bytes]:
    """Return the abstract syntax as sent, and the sub-items behind it, which should be Transfer Syntaxes.

    Raises `MalformedRequestError`, but not for errors in the Transfer Syntaxes.
    """
    if len(context) < _CONTEXT_FIXED:
        raise MalformedRequestError(f"has {len(context)} bytes, and {_CONTEXT_FIXED} come before its syntaxes")
    start = _CONTEXT_FIXED + 4
    if len(context) < start or context[_CONTEXT_FIXED] != ABSTRACT_SYNTAX:
        return _context_out_of_order(context)
    end = start + (context[start - 2] << 8 | context[start - 1])
    if end > len(context):
        raise MalformedRequestError(
            f"its abstract syntax announces {end - start} bytes, and {len(context) - start} follow"
        )
    return context[start:end], context[end:]


def refused_context(context: bytes, result: int) -> RefusedContext:
    """Return what is kept of a refused Presentation Context. Raises what `context_parts` raises."""
    abstract_syntax, sub_items = context_parts(context)
    kept = count = at = 0
    while at + 4 <= len(sub_items):
        at += 4 + (sub_items[at + 2] << 8 | sub_items[at + 3])
        count += 1
        if count == MAX_SHOWN:
            kept = at
    beginning = context[:_CONTEXT_FIXED] + encoded(ABSTRACT_SYNTAX, abstract_syntax) + sub_items[: kept or at]
    return RefusedContext(beginning, max(0, count - MAX_SHOWN), result)


def shown_context(refused: RefusedContext) -> ProposedContext:
    """Decode what was kept, as far as it can be read."""
    abstract_syntax, sub_items = context_parts(refused.beginning)
    names = []
    try:
        for item_type, value in walk(sub_items):
            if item_type == TRANSFER_SYNTAX:
                names.append(_shown(value))
    except MalformedRequestError:
        pass  # the context was refused without reading these
    shown = tuple(names[:MAX_SHOWN])
    return ProposedContext(refused.beginning[0], _shown(abstract_syntax), shown, refused.more, refused.result)


def name_of(uid: str) -> str:
    """The name of the UID in PS3.6; empty if it isn't there."""
    name = UID(uid).name
    return "" if name == uid else name


def _shown(value: bytes) -> str:
    return value[:_LONGEST_SHOWN].decode("ascii", "backslashreplace").strip(" \0")


def _context_out_of_order(context: bytes) -> tuple[bytes, bytes]:
    """The parts of a Presentation Context that doesn't begin with its abstract syntax."""
    abstract_syntaxes = []
    others = []
    for count, (item_type, value) in enumerate(walk(context[_CONTEXT_FIXED:])):
        if count > MAX_TRANSFER_SYNTAXES:
            raise MalformedRequestError(f"has more than {MAX_TRANSFER_SYNTAXES} sub-items, in another order")
        if item_type == ABSTRACT_SYNTAX:
            abstract_syntaxes.append(value)
        else:
            others.append(encoded(item_type, value))
    if len(abstract_syntaxes) > 1:
        raise MalformedRequestError(f"has {len(abstract_syntaxes)} abstract syntaxes instead of one")
    return b"".join(abstract_syntaxes), b"".join(others)


class _SubItems:
    """Collects the sub-items of the User Information."""

    def __init__(self) -> None:
        self.max_pdu = 0
        self.class_uid = ""
        self.version_name = ""
        self.operations_invoked: int | None = None
        self.roles: dict[str, tuple[bool, bool]] = {}
        self.extended: dict[str, None] = {}
        self.storage_classes: set[str] = set()

    def read(self, item_type: int, value: bytes) -> None:
        """Read one. Unknown ones are skipped, and User Identity is one of these (PS3.7 §D.3.3.7.1).

        Raises `MalformedRequestError`.
        """
        if item_type == _MAXIMUM_LENGTH:
            self.max_pdu = int.from_bytes(_of_length(value, 4), "big")
        elif item_type == _IMPLEMENTATION_CLASS_UID:
            self.class_uid = uid_text(value)
        elif item_type == _IMPLEMENTATION_VERSION_NAME:
            self.version_name = _version_name(value)
        elif item_type == _ASYNCHRONOUS_OPERATIONS:
            self.operations_invoked = int.from_bytes(_of_length(value, 4)[:2], "big")
        elif item_type == _ROLE_SELECTION:
            uid, rest = _uid_and_rest(value)
            if len(rest) < 2 or not {rest[0], rest[1]} <= {0, 1}:
                raise MalformedRequestError(f"the roles of {uid} are {rest[:2].hex(' ') or 'missing'}, not 0 or 1 each")
            self.roles[uid] = (rest[0] == 1, rest[1] == 1)
        elif item_type == _EXTENDED_NEGOTIATION:
            self.extended[_uid_and_rest(value)[0]] = None
        elif item_type == _COMMON_EXTENDED_NEGOTIATION:
            sop_class_uid, rest = _uid_and_rest(value)
            if _uid_and_rest(rest)[0] == _STORAGE_SERVICE_CLASS:
                self.storage_classes.add(sop_class_uid)

    def found(self) -> UserInformation:
        """What all sub-items read so far say."""
        return UserInformation(
            self.max_pdu,
            self.class_uid,
            self.version_name,
            self.operations_invoked,
            self.roles,
            tuple(self.extended),
            frozenset(self.storage_classes),
        )


def _read_user_information(items: Sequence[bytes], skipped: list[str]) -> UserInformation:
    """There should be one such item. Of several, the last counts, but the limit on sub-items applies to all."""
    sub_items = _SubItems()
    count = 0
    for data in items:
        sub_items = _SubItems()
        for item_type, value in walk(data):
            count += 1
            if count > MAX_SUB_ITEMS:
                raise MalformedRequestError(f"more than {MAX_SUB_ITEMS} User Information sub-items", "user_information")
            try:
                sub_items.read(item_type, value)
            except MalformedRequestError as error:
                if len(skipped) < MAX_SHOWN:
                    skipped.append(f"{_SUB_ITEMS[item_type]} ({item_type:02X}H): {error}")
    return sub_items.found()


def _of_length(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise MalformedRequestError(f"has {len(value)} bytes instead of {length}")
    return value


def _uid_and_rest(value: bytes) -> tuple[str, bytes]:
    """Return a UID that follows its length in two bytes, and what comes after it."""
    if len(value) < 2:
        raise MalformedRequestError("has no UID")
    end = 2 + int.from_bytes(value[:2], "big")
    if end > len(value):
        raise MalformedRequestError(f"its UID announces {end - 2} bytes, and {len(value) - 2} follow")
    return uid_text(value[2:end]), value[end:]


def _version_name(value: bytes) -> str:
    """Return the name, which only informs. Raises `MalformedRequestError`."""
    text = value.decode("ascii", "replace").rstrip("\0 ")
    if not (text.isascii() and text.isprintable() and len(text) <= _LONGEST_VERSION_NAME):
        raise MalformedRequestError(
            f"has {len(value)} bytes, not up to {_LONGEST_VERSION_NAME} printable ASCII characters"
        )
    return text
