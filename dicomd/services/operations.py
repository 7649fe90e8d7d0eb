"""Assigns each request an operation that serves and answers it.

Invariant: every request gets an operation, and every operation consumes its whole Data Set even if it has failed, so
that one failed request never makes the Association unusable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dicomd.dimse.commands import SUCCESS, CommandField, CommandSet, Element, Response
from dicomd.statuses import Status
from dicomd.uids import uid_from_value


@dataclass(frozen=True, slots=True)
class Rights:
    """Which requests a peer may send: C-ECHO, C-STORE."""

    echo: bool
    store: bool


EVERYTHING = Rights(echo=True, store=True)
NOTHING = Rights(echo=False, store=False)


class PresentationContext(NamedTuple):
    """The accepted Presentation Context of a request (PS3.8 §7.1.1.13), both AE Titles and the requestor's rights.

    `peer` is the requestor's name in the configuration, "" if it has none.
    """

    abstract_syntax: str
    transfer_syntax: str
    calling_ae_title: str
    called_ae_title: str
    rights: Rights = EVERYTHING
    peer: str = ""


class Operation(Protocol):
    """Serves one request: `write` any number of times, then `finish` and `release`; or else `discard`.

    Used by one thread at a time: that which finishes it may be another than that which has written.
    """

    @property
    def commits(self) -> str:
        """The SOP Instance UID of what `finish` will commit, for which it waits; "" if it knows its answer already."""

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Consume `size` bytes of the Data Set. The views are valid only during the call. Never raises for bad data."""

    def finish(self) -> Response | None:
        """Return the answer, now that the Data Set is complete or if there is none; None if no answer is due."""

    def release(self) -> None:
        """Do deferred work, such as cleaning up, after the answer has been sent."""

    def discard(self) -> None:
        """Undo everything: the request will never be completed."""


class Service(Protocol):
    """Serves the requests of one Command Field."""

    def begin(self, request: CommandSet, context: PresentationContext) -> Operation:
        """Start serving `request`. Never raises: if the request is wrong, the operation's answer says so."""


class Answered:
    """An operation whose answer is known from the start. It ignores its Data Set."""

    __slots__ = ("_response",)

    def __init__(self, response: Response | None) -> None:
        self._response = response

    @property
    def commits(self) -> str:
        """Nothing is committed."""
        return ""

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Ignore the bytes."""

    def finish(self) -> Response | None:
        """Return the answer that was known from the start."""
        return self._response

    def release(self) -> None:
        """Nothing is held."""

    def discard(self) -> None:
        """Nothing is held."""


class Verification:
    """The Verification Service Class (PS3.4 Annex A): C-ECHO."""

    def begin(self, request: CommandSet, context: PresentationContext) -> Operation:
        """Answer success if the request is for the SOP Class of its Presentation Context.

        A peer without the right to C-ECHO gets "SOP Class not supported", too, since PS3.7 §9.1.5.1.4 defines no
        "not authorized".
        """
        if not context.rights.echo:
            return Answered(Response(Status.SOP_CLASS_NOT_SUPPORTED, "This peer may not use C-ECHO"))
        if uid_from_value(request.value(Element.AFFECTED_SOP_CLASS_UID)) != context.abstract_syntax:
            return Answered(
                Response(
                    Status.SOP_CLASS_NOT_SUPPORTED, "SOP Class is not that of the Presentation Context", (0x00000002,)
                )
            )
        return Answered(SUCCESS)


class Services:
    """Dispatches requests to services by Command Field (PS3.7 §E.1)."""

    def __init__(self, *, verification: Service, storage: Service) -> None:
        self._by_command = {int(CommandField.C_ECHO_RQ): verification, int(CommandField.C_STORE_RQ): storage}

    def begin(self, request: CommandSet, context: PresentationContext) -> Operation:
        """Start the operation that answers `request`; it answers "unrecognized operation" if no service serves it."""
        service = self._by_command.get(request.command_field)
        if service is not None:
            return service.begin(request, context)
        if request.command_field == CommandField.C_CANCEL_RQ:
            return Answered(None)  # no operation of dicomd's can be cancelled, and a C-CANCEL has no response
        return Answered(
            Response(
                Status.UNRECOGNIZED_OPERATION, f"Only C-STORE and C-ECHO are served, not {request.command_field:04X}H"
            )
        )
