"""Serves the messages of an Association with an Asynchronous Operations Window (PS3.7 §D.3.3.3).

The Association's thread receives one message after the other, as without a window. An instance that is complete is
committed by another thread, and answered as soon as that has returned, while the next ones arrive: so a response may
overtake that of an earlier request. Whatever needs no commit is answered at once by the Association's thread.

Invariants: an operation belongs to one thread at a time, and is answered at most once; the report, which isn't made for
several threads, is used by one at a time (`SharedMessageReport`); and only the Association's thread touches the state
machine and reads. When the peer has sent as much as was agreed, nothing is read until an operation has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from dicomd.dimse.commands import CommandSet, Response, encode_response
from dicomd.net.committers import Committers
from dicomd.net.message_report import MessageReport, SharedMessageReport
from dicomd.net.messages import Messages, Respond
from dicomd.net.outstanding import OutstandingOperations
from dicomd.net.responses import LeftResponses, Responses, SharedResponses
from dicomd.net.tls import TlsTransport
from dicomd.net.transport import ConnectionLostError, PlainTransport
from dicomd.services.operations import Operation, PresentationContext, Services
from dicomd.upperlayer.negotiation import Negotiated
from dicomd.upperlayer.pdus import p_data_tf

_PAUSE: Final = 0.1  # seconds until memory is tried again


class ReportedDefectError(Exception):
    """Another thread has raised an unexpected exception, and reported it."""


class WindowedMessages(Messages):
    """Like `Messages`, but instances are being committed, up to the `negotiated` number, while the next one arrives.

    Used by the Association's thread, except for what `committers` do for it. `lost` is called by the Association's
    thread at the end if a response could not be sent, `defective` by any thread in which an unexpected exception was
    raised. Raises OSError if there is no descriptor for it.
    """

    def __init__(
        self,
        services: Services,
        contexts: Mapping[int, PresentationContext],
        report: MessageReport,
        transport: PlainTransport,
        committers: Committers,
        negotiated: Negotiated,
        lost: Callable[[ConnectionLostError], None],
        defective: Callable[[Exception], None],
    ) -> None:
        self._shared_report = SharedMessageReport(report)
        super().__init__(services, contexts, self._shared_report)
        self._transport = transport
        self._committers = committers
        self._max_pdu = negotiated.max_pdu
        self._lost = lost
        self._report_defect = defective
        self.outstanding = OutstandingOperations(negotiated.operations_invoked)
        self._responses: Responses = (
            LeftResponses(transport, self.outstanding)
            if isinstance(transport, TlsTransport)
            else SharedResponses(transport, self.outstanding)
        )

    def process(self, fragments: Iterable[tuple[int, int, memoryview]], respond: Respond) -> None:
        """Process the next fragments. Raises also what has interrupted the Association meanwhile."""
        self.outstanding.check()
        super().process(fragments, respond)

    def interrupt(self, error: Exception) -> None:
        """Begin no further commit, and have the Association's thread meet `error`."""
        self.outstanding.interrupt(error)

    def silence(self) -> None:
        """Send no further response."""
        self._responses.silence()

    def drop(self) -> None:
        """Discard the incomplete message, and let the commits under way end and be answered. No message may follow."""
        try:
            super().drop()
        finally:
            self._wait_for_all()
            self._responses.end()
            self.outstanding.forget_interruption()
        if self._responses.lost is not None:
            self._lost(self._responses.lost)

    def _wait_for_all(self) -> None:
        while True:
            try:
                self.outstanding.wait_for_all(self._responses)
            except MemoryError:  # even then: who waits for this thread, and what is being committed, must not be left
                time.sleep(_PAUSE)
            else:
                return

    def _finish(self, operation: Operation, request: CommandSet, respond: Respond) -> None:  # noqa: ARG002 - `Responses` sends
        # Until it is this operation's turn, it stays the message under way, which is dropped if its turn never comes.
        began = self._shared_report.began
        sop_instance_uid = operation.commits
        if not sop_instance_uid:
            response = operation.finish()
            if response is not None:
                self.outstanding.await_message_id(request.message_id, self._responses)
            self._operation = self._request = None
            self._answer(operation, request, self._context_id, began, response)
            return
        commit = partial(self._commit, operation, request, self._context_id, began, sop_instance_uid)
        self.outstanding.begin(request.message_id, sop_instance_uid, self._responses)
        self._operation = self._request = None
        if not self._committers.assign(commit):
            commit()

    def _commit(
        self, operation: Operation, request: CommandSet, context_id: int, began: float, sop_instance_uid: str
    ) -> None:
        """Finish an operation that has begun, in any thread. Never raises."""
        try:
            self._answer(operation, request, context_id, began, operation.finish())
        except ConnectionLostError:
            pass  # `Responses` has interrupted the Association's thread
        except Exception as error:  # a defect in dicomd, after which the Association's thread aborts
            self.defective = True
            self._report_defect(error)  # at once, because that thread may have nothing left to read or begin
            self.outstanding.interrupt(ReportedDefectError())
            self._transport.interrupt(ReportedDefectError())
        finally:
            self.outstanding.end(request.message_id, sop_instance_uid)

    def _answer(
        self, operation: Operation, request: CommandSet, context_id: int, began: float, response: Response | None
    ) -> None:
        """Like the end of `Messages._finish`, which isn't shared: a call more would cost every other Association."""
        sent = False
        try:
            if response is not None:
                self._report.before_answer(operation)
                self._responses.send(p_data_tf(context_id, encode_response(request, response), self._max_pdu))
                sent = True
        finally:
            operation.release()
            if response is not None:
                self._shared_report.answered(operation, request.command_field, response, sent=sent, began=began)
