"""The requestor's side of an Association, for `echo` and `send`, built on pynetdicom.

pynetdicom reports a failed Association only in its log. Here it raises `AssociationFailedError`, whose message says
whether the connection was refused or closed, the Association rejected or aborted, or the peer silent.
"""

import socket
import ssl
import time
from dataclasses import dataclass
from typing import Self

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicomd.aborts import AbortReason, AbortSource
from dicomd.context_results import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    NO_REASON,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
)
from dicomd.formatting import format_address
from dicomd.rejections import RejectReason, RejectResult, RejectSource

_RESULTS: dict[int, str] = {
    RejectResult.PERMANENT: "rejected, permanent",
    RejectResult.TRANSIENT: "rejected, transient",
}
_SOURCES: dict[int, str] = {
    RejectSource.SERVICE_USER: "service-user",
    RejectSource.PROVIDER_ACSE: "service-provider (ACSE)",
    RejectSource.PROVIDER_PRESENTATION: "service-provider (Presentation)",
}
_REJECT_REASONS = {
    RejectReason.NO_REASON_GIVEN: "no reason given",
    RejectReason.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED: "application context name not supported",
    RejectReason.CALLING_AE_TITLE_NOT_RECOGNIZED: "Calling AE Title not recognized",
    RejectReason.CALLED_AE_TITLE_NOT_RECOGNIZED: "Called AE Title not recognized",
    RejectReason.NO_REASON_GIVEN_BY_ACSE: "no reason given",
    RejectReason.PROTOCOL_VERSION_NOT_SUPPORTED: "protocol version not supported",
    RejectReason.TEMPORARY_CONGESTION: "temporary congestion",
    RejectReason.LOCAL_LIMIT_EXCEEDED: "local limit exceeded",
}
_DIAGNOSTICS = {(int(reason.source), reason.code): words for reason, words in _REJECT_REASONS.items()}
_ABORT_SOURCES: dict[int, str] = {
    AbortSource.SERVICE_USER: "service-user",
    AbortSource.SERVICE_PROVIDER: "service-provider",
}
_ABORT_REASONS: dict[int, str] = {
    AbortReason.NOT_SPECIFIED: "no reason given",
    AbortReason.UNRECOGNIZED_PDU: "unrecognized PDU",
    AbortReason.UNEXPECTED_PDU: "unexpected PDU",
    AbortReason.UNRECOGNIZED_PDU_PARAMETER: "unrecognized PDU parameter",
    AbortReason.UNEXPECTED_PDU_PARAMETER: "unexpected PDU parameter",
    AbortReason.INVALID_PDU_PARAMETER: "invalid PDU parameter value",
}
_CONTEXT_RESULTS = {
    USER_REJECTION: "refused by the user",
    NO_REASON: "no reason given",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "abstract syntax not supported",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "transfer syntax not supported",
}


class AssociationFailedError(Exception):
    """The Association could not be established, or it ended early. The message is written for people."""


@dataclass(frozen=True, slots=True)
class RemoteAE:
    """The peer to call, the AE Titles to use, and how long to wait for the connection and for each answer (seconds).

    `tls` holds the TLS context and the name expected in the peer's certificate; None means no TLS.
    """

    host: str
    port: int
    called: str
    calling: str
    timeout: float
    tls: tuple[ssl.SSLContext, str] | None = None

    def __str__(self) -> str:
        return format_address(self.host, self.port)


@dataclass(slots=True)
class Attempt:
    """What was received during one attempt; pynetdicom's Association doesn't keep it."""

    connected: bool = False
    reject: A_ASSOCIATE_RJ | None = None
    abort: A_ABORT_RQ | None = None

    def note(self, event: evt.Event) -> None:
        """Record one of pynetdicom's events."""
        if event.event is evt.EVT_CONN_OPEN:
            self.connected = True
        elif isinstance(event.pdu, A_ASSOCIATE_RJ):
            self.reject = event.pdu
        elif isinstance(event.pdu, A_ABORT_RQ):
            self.abort = event.pdu


class Requestor:
    """One Association, as a context manager: released on exit, aborted if an exception was raised."""

    def __init__(self, peer: RemoteAE, contexts: list[PresentationContext]) -> None:
        """Open the Association. Raises AssociationFailedError."""
        self._peer = peer
        self._attempt = Attempt()
        began = time.monotonic()
        try:
            socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise AssociationFailedError(f"{peer.host}: {reason}") from error
        application = AE(ae_title=peer.calling)
        application.acse_timeout = application.dimse_timeout = application.connection_timeout = peer.timeout
        self.association: Association = application.associate(
            peer.host,
            peer.port,
            contexts=contexts,
            ae_title=peer.called,
            tls_args=peer.tls,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._attempt.note), (evt.EVT_PDU_RECV, self._attempt.note)],
        )
        if not self.association.is_established:
            raise AssociationFailedError(self._why_not(time.monotonic() - began))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.association.is_established:
            if kind is None:
                self.association.release()
            else:
                self.association.abort()

    def why_ended(self) -> str:
        """Say why the open Association ended, or why no answer came."""
        if self._attempt.abort is not None:
            return f"the peer aborted the Association: {_abort_in_words(self._attempt.abort)}"
        return f"no answer: the connection was closed, or {self._peer.timeout:g} s passed"

    def _why_not(self, seconds: float) -> str:
        peer, attempt = self._peer, self._attempt
        if attempt.reject is not None:
            return f"{peer}: the Association was {_reject_in_words(attempt.reject)}"
        if attempt.abort is not None:
            return f"{peer}: the peer aborted the Association: {_abort_in_words(attempt.abort)}"
        if not attempt.connected:
            return f"{peer}: {_connection_trouble(peer)}"
        if self.association.rejected_contexts:
            results = {context_in_words(context.result) for context in self.association.rejected_contexts}
            return f"{peer}: the peer accepts no Presentation Context: {', '.join(sorted(results))}"
        if seconds >= peer.timeout:
            return f"{peer}: connected, but no answer to the A-ASSOCIATE-RQ within {peer.timeout:g} s"
        if peer.tls is not None:
            return (
                f"{peer}: the peer closed the connection after the TLS handshake; "
                "it may require a client certificate, or another one"
            )
        return f"{peer}: the peer closed the connection without an answer; it may not speak DICOM, or may require TLS"


def context_in_words(result: int | None) -> str:
    """Name the result of a refused Presentation Context (PS3.8 Table 9-18)."""
    return _CONTEXT_RESULTS.get(-1 if result is None else result, "not answered")


def status_in_words(status: int) -> str:
    """Format a C-STORE status (PS3.4 §B.2.3) as "0xA7FF (Failure: Refused: Out of Resources)"."""
    category, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, (code_to_category(status), ""))
    return f"0x{status:04X} ({category}{': ' + meaning if meaning else ''})"


def printable(text: str) -> str:
    """Replace the control characters in a peer's text, which a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _reject_in_words(reject: A_ASSOCIATE_RJ) -> str:
    result, source, diagnostic = reject.result, reject.source, reject.reason_diagnostic
    words = _DIAGNOSTICS.get((source or 0, diagnostic or 0), "a reserved value")
    return (
        f"{_RESULTS.get(result or 0, 'rejected')}, by the {_SOURCES.get(source or 0, 'peer')}: {words} "
        f"({result}/{source}/{diagnostic})"
    )


def _abort_in_words(abort: A_ABORT_RQ) -> str:
    source, reason = abort.source, abort.reason_diagnostic
    words = _ABORT_REASONS.get(reason or 0, "a reserved value") if source else "no reason given"
    return f"{words}, by its {_ABORT_SOURCES.get(source or 0, 'unknown source')} ({source}/{reason})"


def _connection_trouble(peer: RemoteAE) -> str:
    """Find out why the connection failed, by a second attempt: pynetdicom only logs the reason."""
    try:
        with socket.create_connection((peer.host, peer.port), timeout=peer.timeout) as connection:
            if peer.tls is not None:
                context, name = peer.tls
                context.wrap_socket(connection, server_hostname=name).close()
    except TimeoutError:
        return f"no connection within {peer.timeout:g} s"
    except ssl.SSLCertVerificationError as error:
        return f"the peer's certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return f"the TLS handshake with the peer failed: {reason}"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "the connection failed, although a second attempt succeeded"
