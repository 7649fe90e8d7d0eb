"""From a request to the operation that answers it.

The rule it keeps: every request gets an operation, and every operation takes its whole Data Set, wanted or not, so that
the Association stays usable whatever became of this one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dicomd.dimse.commands import SUCCESS, CommandField, CommandSet, Element, Response
from dicomd.dimse.statuses import Status
from dicomd.uids import uid_from_value


@dataclass(frozen=True, slots=True)
class Rights:
    """What a peer may ask for: C-ECHO, C-STORE."""

    echo: bool
    store: bool


EVERYTHING = Rights(echo=True, store=True)
NOTHING = Rights(echo=False, store=False)


class PresentationContext(NamedTuple):
    """Under which agreement a request came (PS3.8 §7.1.1.13), between whom, and what the requestor may ask for."""

    abstract_syntax: str
    transfer_syntax: str
    calling_ae_title: str
    called_ae_title: str
    rights: Rights = EVERYTHING


class Operation(Protocol):
    """One request being served, by one thread: `write` as often as need be, then `finish`, `release`; or `discard`."""

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Take `size` bytes of the Data Set. The views are valid during the call only. Never raises for bad data."""

    def finish(self) -> Response | None:
        """The Data Set is complete (or there is none): return how the request is answered, None for no answer."""

    def release(self) -> None:
        """The answer has gone out: do what nobody waits for."""

    def discard(self) -> None:
        """The request will never be complete: leave nothing behind."""


class Service(Protocol):
    """Serves the requests of one Command Field."""

    def begin(self, request: CommandSet, context: PresentationContext) -> Operation:
        """Start serving `request`. Never raises: what is wrong with the request is the operation's answer."""


class Answered:
    """An operation whose answer is known from the start; a Data Set that comes with it is passed over."""

    __slots__ = ("_response",)

    def __init__(self, response: Response | None) -> None:
        self._response = response

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Pass over the bytes."""

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
        """Answer 0x0000 if the request is for the SOP Class of its Presentation Context.

        0x0122 where the peer may not ask for it: "not authorized" (0x0124) is no status of C-ECHO (PS3.7 §9.1.5.1.4).
        """
        if not context.rights.echo:
            return Answered(Response(Status.SOP_CLASS_NOT_SUPPORTED, "This peer may not ask for an echo"))
        if uid_from_value(request.value(Element.AFFECTED_SOP_CLASS_UID)) != context.abstract_syntax:
            return Answered(
                Response(Status.SOP_CLASS_NOT_SUPPORTED, "SOP Class is not the Presentation Context's", (0x00000002,))
            )
        return Answered(SUCCESS)


class Services:
    """Which service a request goes to, by its Command Field (PS3.7 §E.1)."""

    def __init__(self, *, verification: Service, storage: Service) -> None:
        self._by_command = {int(CommandField.C_ECHO_RQ): verification, int(CommandField.C_STORE_RQ): storage}

    def begin(self, request: CommandSet, context: PresentationContext) -> Operation:
        """Start the operation that answers `request`; 0x0211 where there is no service for it."""
        service = self._by_command.get(request.command_field)
        if service is not None:
            return service.begin(request, context)
        if request.command_field == CommandField.C_CANCEL_RQ:
            return Answered(None)  # nothing that dicomd does can be cancelled, and a C-CANCEL has no response
        return Answered(
            Response(
                Status.UNRECOGNIZED_OPERATION, f"Only C-STORE and C-ECHO are served, not {request.command_field:04X}H"
            )
        )
