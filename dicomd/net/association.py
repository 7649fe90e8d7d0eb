"""Serves one Association, from connection to end, in a thread that blocks: it reads, asks the state table and answers.

Invariants: only `upperlayer.acceptor` decides what a PDU means; a Data Set is passed on as it arrives and never held;
and whatever happens, the thread ends, its counts are taken back, and nothing half stored remains.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from dicomd.aborts import AbortReason, AbortSource
from dicomd.addresses import host_of
from dicomd.net.acceptor_settings import AcceptorSettings
from dicomd.net.access import AccessDecision, Source
from dicomd.net.admission import judge_application_context
from dicomd.net.buffers import SMALL_BUFFER, ReceiveBuffers, bytes_to_await
from dicomd.net.deadlines import Deadline, RestingDeadline, StoppedError, TimedOutError
from dicomd.net.large_requests import LARGE_REQUEST, Permit
from dicomd.net.message_report import MessageReport
from dicomd.net.messages import Messages
from dicomd.net.proxy import peer_behind
from dicomd.net.rejection import Rejection
from dicomd.net.report import AssociationReport
from dicomd.net.tls import TlsTransport, handshake
from dicomd.net.transport import ConnectionLostError, PlainTransport, WokenError
from dicomd.net.windowed_messages import ReportedDefectError, WindowedMessages
from dicomd.outcomes import Outcome
from dicomd.protocols import recognize
from dicomd.services.operations import PresentationContext
from dicomd.upperlayer.acceptor import RECEIVED, AcceptorStateMachine, Action, Event, State
from dicomd.upperlayer.items import MalformedRequestError
from dicomd.upperlayer.negotiation import (
    AssociateRequest,
    Negotiated,
    associate_ac,
)
from dicomd.upperlayer.pdus import (
    A_RELEASE_RP_PDU,
    COMMAND,
    a_abort,
    a_associate_rj,
    p_data_tf,
)
from dicomd.upperlayer.reader import PDU, Fragment, PDUError, PDUReader

_ABORT_TIMEOUT = 1.0
"""Seconds that a peer has to receive the A-ABORT when the daemon stops."""


_OPEN = frozenset((State.AWAITING_ASSOCIATE_RESPONSE, State.ESTABLISHED, State.AWAITING_RELEASE_RESPONSE))
"""The states in which dicomd may send an A-ABORT by itself (AA-1 of PS3.8 Table 9-10)."""


class Association:
    """An Association that a peer requests over `transport`, from the source address `address`."""

    def __init__(
        self, transport: PlainTransport, address: str, settings: AcceptorSettings, report: AssociationReport
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._report = report
        self._source = Source(address)
        self._machine = AcceptorStateMachine()
        self._deadline = Deadline(transport, settings.limits)
        self._rate_is_limited = settings.limits.minimum_rate > 0  # else a stall shows only in a read that gets nothing
        self._buffers = ReceiveBuffers(settings.buffers)
        self._reader = PDUReader(self._buffers.small, max_pdu=settings.max_pdu)
        self._admitted: AccessDecision | None = None
        self.was_admitted = False
        """Whether an Association was ever admitted, rather than just a connection opened."""
        self._stopping = ""
        self._peer_max_pdu = 0
        self._permit: Permit | None = None  # held while the peer sends a large request
        self._messages: Messages | None = None  # once the Association is established

    def run(self) -> None:
        """Serve the Association until its connection ends. Never raises."""
        try:
            while self._machine.state is not State.IDLE:
                self._serve()
        except ReportedDefectError:
            self._abort_after_defect()
        except Exception as error:  # a defect in dicomd must not end the worker
            self._report.internal_error("net", error)
            self._abort_after_defect()
        for last in (
            self._drop_message,
            self._buffers.give_back,
            self._leave,
            self._release_permit,
            self._transport.close,
            self._report.ended,
        ):
            try:
                last()
            except Exception as error:  # each of these has to run, even if another fails
                self._report.internal_error("net", error)

    def stop(self, why: str) -> None:
        """Abort the Association from another thread, at the end of a drain; `why` is for its log line."""
        self._stopping = why
        self._transport.wake(why)
        if self._messages is not None:
            self._messages.interrupt(StoppedError(why))

    def skip_close_wait(self) -> None:
        """Stop waiting for the peer to close an ended Association; from another thread, at the start of a drain."""
        if self._machine.state is State.AWAITING_CLOSE:
            self._transport.wake("the Association has ended")

    # -- one event after the other ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Process events until the connection has ended, or one of them was exceptional."""
        reader = self._reader
        machine = self._machine
        try:
            if self._transport.proxy_header_pending:
                self._read_proxy_header()
            if isinstance(self._transport, TlsTransport) and not self._transport.secured:
                handshake(self._transport, self._deadline, self._buffers.small, self._report)
            while machine.state is not State.IDLE:
                event = reader.next_event()
                if event is None:
                    self._receive()
                    self._process_next_fragments()
                elif isinstance(event, Fragment):
                    self._process_fragment(event)
                    self._process_next_fragments()
                else:
                    self._process_pdu(event)
        except PDUError as error:
            if spoken := recognize(error.header):
                self._report.mismatched(spoken)
            self._report.outcome(Outcome.ABORTED_LOCALLY, error)
            self._react(self._machine.happened(Event.INVALID_PDU), error.reason)
        except TimedOutError as error:
            self._time_is_up(error)
        except StoppedError as error:
            self._report.outcome(Outcome.ABORTED_LOCALLY, error)
            self._react(self._machine.happened(Event.ABORT), AbortReason.NOT_SPECIFIED)
            self._deadline.start_artim(_ABORT_TIMEOUT)
        except ConnectionLostError as error:
            woken = isinstance(error, WokenError)  # before the Association is open, there is nothing to abort
            self._report.outcome(Outcome.ABORTED_LOCALLY if woken else Outcome.CONNECTION_LOST, error)
            self._connection_ended()

    def _read_proxy_header(self) -> None:
        settings = self._settings
        address = peer_behind(self._transport, self._source, settings.limits, settings.admission.rules, self._report)
        self._source = Source(address)

    def _connection_ended(self) -> None:
        if self._machine.state is not State.IDLE:
            self._machine.happened(Event.CLOSED)

    def _receive(self) -> None:
        reader = self._reader
        deadline = self._deadline
        self._check_stopping()
        messages = self._messages
        in_message = (messages is not None and messages.under_way) or not reader.at_boundary
        if not in_message:
            reader.start_over()
        elif reader.must_rewind or (reader.pdv_left > SMALL_BUFFER and self._buffers.large is None):
            self._make_room()
        if self._machine.state is State.ESTABLISHED:
            if in_message:
                deadline.in_message()
            else:
                deadline.between_messages(pausing=self._buffers.large is not None)
        elif in_message and self._permit is None and reader.body_length > LARGE_REQUEST:
            self._permit = self._settings.large_requests.acquire(host_of(self._source.address), deadline.artim_ends)
        space = reader.space()
        if awaited := bytes_to_await(reader) if in_message and self._rate_is_limited else 0:
            space = space[:awaited]
        count = 0
        while not count:
            deadline.before_receive()
            try:
                count = self._transport.receive_into(space, acknowledge=in_message, whole=awaited > 0)
            except TimeoutError:
                deadline.elapsed()
                if not in_message and self._buffers.large is not None:  # it was kept for the next message
                    self._buffers.shrink(reader)
                    space = reader.space()
            except ConnectionLostError:
                self._check_stopping()  # `wake` looks as if the peer had closed
                raise
            else:
                reader.received(count)
                deadline.received(count)
                if not count:  # part of a TLS record: the peer has begun, and has to keep the minimum rate from now on
                    in_message = True
                    if self._machine.state is State.ESTABLISHED:
                        deadline.in_message()

    def _check_stopping(self) -> None:
        if self._stopping and self._machine.state is State.ESTABLISHED:
            raise StoppedError(self._stopping)

    def _make_room(self) -> None:
        messages = self._messages
        if messages is not None:
            messages.flush()
        in_data_set = messages is not None and messages.in_data_set
        if self._buffers.large is None and in_data_set:  # for more than the small buffer can hold
            self._buffers.enlarge(self._reader)
        else:
            self._reader.rewind()

    # -- PDUs ------------------------------------------------------------------------------------------------------

    def _process_pdu(self, pdu: PDU) -> None:
        event = RECEIVED[pdu.pdu_type]
        if event is Event.ASSOCIATE_RQ_RECEIVED and self._machine.state is State.AWAITING_ASSOCIATE_RQ:
            if self._permit is None:
                self._answer_request(pdu.body)
            else:
                self._answer_large_request(pdu.body)
            return
        action = self._machine.happened(event)
        if action is Action.AR_2:
            self._release()
        elif action in (Action.AA_2, Action.AA_3):
            self._report.aborted("received", pdu.body[2], pdu.body[3])
            self._report.outcome(Outcome.ABORTED_BY_PEER)
            if self._messages is not None:
                self._messages.silence()
        elif action is not Action.AA_6:
            self._report.outcome(Outcome.ABORTED_LOCALLY, f"unexpected {event.name.replace('_', ' ').lower()}")
            self._react(action, AbortReason.UNEXPECTED_PDU)

    def _react(self, action: Action, reason: AbortReason) -> None:
        """Send the A-ABORT that `action` requires (PS3.8 Table 9-9). The state is Sta13 already."""
        if action is Action.AA_6:
            return
        source = AbortSource.SERVICE_USER if action is Action.AA_1 else AbortSource.SERVICE_PROVIDER
        if action is Action.AA_1:
            reason = AbortReason.NOT_SPECIFIED
        if action is not Action.AA_7:  # AA-7 repeats an A-ABORT in Sta13, while ARTIM keeps running
            self._drop_message()
            self._leave()
            self._reader.skip_pdu()
            self._deadline.start_artim()
        try:
            self._transport.send(a_abort(source, reason))
        except ConnectionLostError:
            self._connection_ended()  # the peer is gone, so there is nothing to report as sent
        else:
            self._report.aborted("sent", source, reason)

    def _time_is_up(self, why: TimedOutError) -> None:
        if self._machine.state is State.ESTABLISHED:
            self._report.outcome(Outcome.TIMED_OUT, why)
            self._react(self._machine.happened(Event.ABORT), AbortReason.NOT_SPECIFIED)
        else:
            if self._machine.state is State.AWAITING_ASSOCIATE_RQ:
                self._report.outcome(Outcome.TIMED_OUT, TimedOutError(f"no A-ASSOCIATE-RQ: {why}", why.limit))
            self._machine.happened(Event.ARTIM_EXPIRED)

    def _abort_after_defect(self) -> None:
        self._report.outcome(Outcome.ABORTED_LOCALLY, "internal error")
        if self._machine.state in _OPEN:
            with suppress(Exception):  # the defect is already reported, its consequences needn't be
                self._react(self._machine.happened(Event.ABORT), AbortReason.NOT_SPECIFIED)

    # -- opening and release ---------------------------------------------------------------------------------------

    def _answer_large_request(self, body: bytes) -> None:
        try:
            with self._settings.large_requests.turn(self._deadline.artim_ends):
                self._answer_request(body)
        finally:
            self._release_permit()

    def _release_permit(self) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            self._settings.large_requests.release(permit)

    def _answer_request(self, body: bytes) -> None:
        """Judge an A-ASSOCIATE-RQ and answer it. One that can't be read is an invalid PDU rather than a request."""
        report = self._report
        try:
            request = AssociateRequest.from_body(body)
            report.requested(request)
            # The cheap checks come first, so that a peer that isn't let in costs no negotiation.
            access = self._admit(request)
            answer = access.refusal or self._negotiate(request)
        except MalformedRequestError as error:
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, str(error), error.limit) from error
        self._machine.happened(Event.ASSOCIATE_RQ_RECEIVED)
        if isinstance(answer, Rejection):
            self._reject(request, answer)
            return
        negotiated = answer
        self._machine.happened(Event.ACCEPT)
        # Once established, only the fragments of a P-DATA-TF matter (DT-2), so the PDU itself is not reported. In Sta13
        # it means nothing (AA-6), and in Sta8, between the two, nothing is read.
        self._reader.expect_data()
        self._peer_max_pdu = negotiated.max_pdu
        requestor = (request.calling_ae_title, request.called_ae_title, access.rights, access.peer)
        contexts = {
            context_id: PresentationContext(context.abstract_syntax, context.transfer_syntax, *requestor)
            for context_id, context in negotiated.contexts.items()
        }
        self._serve_messages(contexts, report.accepted(access, negotiated), negotiated)
        self._transport.send(associate_ac(request, negotiated))

    def _serve_messages(
        self, contexts: dict[int, PresentationContext], report: MessageReport, negotiated: Negotiated
    ) -> None:
        """Serve messages from now on: one by one, unless another number was agreed on."""
        settings, transport = self._settings, self._transport
        self._messages = Messages(settings.services, contexts, report)
        if negotiated.operations_invoked > 1:
            lost = partial(self._report.outcome, Outcome.CONNECTION_LOST)
            defective = partial(self._report.internal_error, "net")
            with suppress(OSError):  # without a descriptor for more, one by one nevertheless
                self._messages = windowed = WindowedMessages(
                    settings.services, contexts, report, transport, settings.committers, negotiated, lost, defective
                )
                self._deadline = RestingDeadline(transport, settings.limits, windowed.outstanding.quiet_since)

    def _admit(self, request: AssociateRequest) -> AccessDecision:
        if names := self._transport.certificate_names:
            self._source = self._source._replace(certificate_names=names)
        access = self._settings.admission.admit(request, self._source)
        if access.refusal is None:  # it is counted in, and will be counted out whatever happens now
            self._admitted = access
            self.was_admitted = True
        self._report.judged(access)
        return access

    def _negotiate(self, request: AssociateRequest) -> Negotiated | Rejection:
        negotiated = self._settings.negotiator.negotiate(request)
        return judge_application_context(negotiated.application_context_name) or negotiated

    def _reject(self, request: AssociateRequest, rejection: Rejection) -> None:
        self._leave()
        self._machine.happened(Event.REJECT)
        self._deadline.start_artim()
        self._report.outcome(Outcome.REJECTED)
        self._transport.send(a_associate_rj(*rejection.reason.codes))
        self._report.rejected(rejection, partial(self._settings.negotiator.judge_unanswered, request))

    def _release(self) -> None:
        """Grant a release once every earlier request has been answered (AR-7)."""
        # Also discards any partial message: PS3.8 does not define a release mid-message.
        self._drop_message()
        if self._messages is not None and self._messages.defective:
            raise ReportedDefectError
        self._machine.happened(Event.RELEASE)
        self._leave()
        self._deadline.start_artim()
        self._report.outcome(Outcome.RELEASED)
        self._transport.send(A_RELEASE_RP_PDU)

    def _leave(self) -> None:
        admitted, self._admitted = self._admitted, None
        if admitted is not None:
            self._settings.admission.leave(admitted)

    # -- messages --------------------------------------------------------------------------------------------------

    def _process_next_fragments(self) -> None:
        """Fast path for the common case. Must behave exactly like `_process_fragment`."""
        messages = self._messages
        if messages is None:
            return
        while self._machine.state is State.ESTABLISHED and not self._stopping:
            fragments = self._reader.next_fragments()
            if not fragments:
                break
            messages.process(fragments, self._respond)

    def _process_fragment(self, fragment: Fragment) -> None:
        if self._messages is None or self._machine.state is not State.ESTABLISHED:
            return
        if fragment.control & COMMAND:
            self._check_stopping()
        self._messages.process((fragment,), self._respond)

    def _respond(self, context_id: int, command_set: bytes) -> None:
        self._machine.happened(Event.SEND_DATA)
        self._transport.send(p_data_tf(context_id, command_set, self._peer_max_pdu))

    def _drop_message(self) -> None:
        if self._messages is not None:
            self._messages.drop()
        self._buffers.shrink(self._reader)
