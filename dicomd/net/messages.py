"""Serves the DIMSE messages of one Association: from fragments to an operation, and from its result to the response.

Invariants: a Data Set is passed on as it arrives and never held as a whole; requests are served in order; work that the
answer doesn't depend on is done after the answer has been sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from dicomd.aborts import AbortReason
from dicomd.dimse.commands import (
    MAX_COMMAND_SET,
    CommandSet,
    CommandSetError,
    CommandSetParser,
    Response,
    encode_response,
)
from dicomd.services.operations import Operation, PresentationContext, Services
from dicomd.upperlayer.pdus import COMMAND, LAST
from dicomd.upperlayer.reader import PDUError

Respond = Callable[[int, bytes], None]
"""Sends a Command Set in a Presentation Context."""


class Report(Protocol):
    """What messages are reported to; see `MessageReport`."""

    def started(self) -> None:
        """Note that a request's Command Set is complete."""

    def before_answer(self, operation: Operation) -> None:
        """Note that an operation is about to be answered."""

    def answered(self, operation: Operation, command_field: int, response: Response, *, sent: bool) -> None:
        """Report a request that was served."""

    def interrupted(self, operation: Operation) -> None:
        """Report that the Association ended in the middle of a message."""


_MOST_VIEWS = 512
"""Fragments collected for one write; half of what a single writev accepts."""


class Messages:
    """Serves the messages of an Association through `services`; used by its thread alone.

    Malformed messages raise `PDUError`. The function that sends a response is passed with each message and not kept: it
    belongs to the Association, and the reference cycle would keep all buffers until the garbage collector ran.
    """

    defective = False
    """Whether a request stays without a response because of a defect in dicomd, met and reported by another thread."""

    def __init__(self, services: Services, contexts: Mapping[int, PresentationContext], report: Report) -> None:
        """`contexts` are the accepted Presentation Contexts by their IDs."""
        self._services = services
        self._contexts = contexts
        self._report = report
        self._command_sets = CommandSetParser()
        # of the message that is being received
        self._command = bytearray()
        self._context_id = 0
        self._operation: Operation | None = None
        self._request: CommandSet | None = None
        self._views: list[memoryview] = []

    @property
    def under_way(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._operation is not None or bool(self._command)

    @property
    def in_data_set(self) -> bool:
        """Whether a Data Set has begun and is not complete."""
        return self._operation is not None

    def process(self, fragments: Iterable[tuple[int, int, memoryview]], respond: Respond) -> None:
        """Process the next fragments, and answer each message that one of them completes.

        Their fields are those of a `Fragment`. Their views are kept until `flush`.
        """
        for context_id, control, data in fragments:
            if control & COMMAND:
                self._process_command(context_id, data, respond, is_last=control & LAST != 0)
                continue
            operation = self._operation
            request = self._request
            if operation is None or request is None:
                message = "a Data Set fragment without a Command Set before it"
                raise PDUError(AbortReason.INVALID_PDU_PARAMETER, message)
            if context_id != self._context_id:
                message = "the Presentation Context changes inside a message"
                raise PDUError(AbortReason.INVALID_PDU_PARAMETER, message)
            views = self._views
            views.append(data)
            if control & LAST:
                self.flush()
                self._finish(operation, request, respond)
            elif len(views) >= _MOST_VIEWS:
                self.flush()

    def flush(self) -> None:
        """Pass the collected views on. Must be called before their buffer is reused."""
        views = self._views
        if views:
            self._views = []
            if self._operation is not None:
                self._operation.write(views, sum(map(len, views)))

    def interrupt(self, error: Exception) -> None:
        """End waits of this object with `error`, from any thread; but it waits for nothing but the store."""

    def silence(self) -> None:
        """Send no further response. There is none to come: each request is answered before the next one is read."""

    def drop(self) -> None:
        """Discard the incomplete message, if there is one."""
        operation = self._operation
        self._operation = None
        self._request = None
        self._views = []
        self._command.clear()
        if operation is not None:
            operation.discard()
            self._report.interrupted(operation)

    def _process_command(self, context_id: int, data: memoryview, respond: Respond, *, is_last: bool) -> None:
        if self._operation is not None:
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, "a Command Set fragment inside a Data Set")
        context = self._contexts.get(context_id)
        if context is None:
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, f"Presentation Context {context_id} is not accepted")
        if self._command and context_id != self._context_id:
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, "the Presentation Context changes inside a Command Set")
        if len(self._command) + len(data) > MAX_COMMAND_SET:
            message = f"a Command Set of over {MAX_COMMAND_SET} bytes"
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, message, "command_set")
        self._context_id = context_id
        if self._command or not is_last:
            self._command += data
            if not is_last:
                return
            command_set = bytes(self._command)
            self._command.clear()
        else:
            command_set = bytes(data)
        try:
            request = self._command_sets.parse(command_set)
        except CommandSetError as error:
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, f"Command Set: {error}") from error
        if request.is_response:
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, "a response to a request that was never sent")
        self._request = request
        self._report.started()
        self._operation = self._services.begin(request, context)
        if not request.has_data_set:
            self._finish(self._operation, request, respond)

    def _finish(self, operation: Operation, request: CommandSet, respond: Respond) -> None:
        response = operation.finish()
        self._operation = None
        self._request = None
        sent = False
        try:
            if response is not None:
                self._report.before_answer(operation)
                respond(self._context_id, encode_response(request, response))
                sent = True
        finally:
            # Clean up and log only after the answer has been sent: meanwhile the peer can send its next request.
            operation.release()
            if response is not None:
                self._report.answered(operation, request.command_field, response, sent=sent)
