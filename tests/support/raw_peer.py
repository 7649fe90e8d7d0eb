"""A requestor that does exactly what a test says, right or wrong: a socket, and PDUs as bytes.

A-ASSOCIATE-RQ PDUs come from pynetdicom's codecs, so that they are certain to be well-formed; everything else is
encoded byte by byte. Every read has a deadline.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

from tests.support import wire
from tests.support.encoding import command_set, p_data, pdv, ui, us
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, VERIFICATION, Instance
from tests.support.wire import PDU, Message

DEADLINE = 10.0
"""Seconds that an answer may take on a busy machine."""
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
A_RELEASE_RQ_PDU = bytes.fromhex("05000000000400000000")
A_ABORT_PDU = bytes.fromhex("07000000000400000000")

Proposal = tuple[str, Sequence[str]]
"""An Abstract Syntax and its Transfer Syntaxes."""
CT_AND_ECHO: tuple[Proposal, ...] = ((CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (VERIFICATION, [EXPLICIT_LITTLE]))
"""Presentation Contexts 1 and 3 of most tests."""


class Closed(ConnectionError):
    """The acceptor closed the connection although a PDU was expected."""


class Aborted(ConnectionAbortedError):
    """The acceptor aborted the Association although a message or its release was expected."""


@dataclass(frozen=True)
class Abort:
    """An A-ABORT that was received (PS3.8 Table 9-26)."""

    source: int
    reason: int


class RawPeer:
    """A TCP connection to `address` and, after `associate`, an Association. A context manager that closes it."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        calling: str = "RAWPEER",
        receive_buffer: int = 0,
        source: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect; a small `receive_buffer` (bytes) makes the TCP window small, so that answers soon block the daemon.

        `source` is the address to connect from, such as 127.0.0.2, which loopback also has. With `tls` the handshake
        is done at once. Raises OSError, including ssl.SSLError.
        """
        self.sock: socket.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(DEADLINE)
        try:
            if source:
                self.sock.bind((source, 0))
            self.sock.connect(address)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname="dicomd.test")
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.calling = calling
        self.accept = PDU(0, b"")
        self.contexts: dict[int, wire.ContextResult] = {}
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    # -- bytes -----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.sock.sendall(data)

    def send_in_pieces(self, data: bytes, size: int) -> None:
        """Write bytes with each piece in a TCP segment of its own."""
        for at in range(0, len(data), size):
            self.sock.sendall(data[at : at + size])

    def send_for_ever(self, data: bytes) -> NoReturn:
        """Write the same bytes repeatedly until writing fails. Raises OSError."""
        while True:
            self.sock.sendall(data)

    def reset(self) -> None:
        """Reset the connection with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def read_pdu(self, deadline: float = DEADLINE) -> PDU:
        """Return the next PDU. Raises `Closed` at the end of the connection, TimeoutError at the deadline."""
        ends = time.monotonic() + deadline
        header = self._read(6, ends)
        pdu_type, length = struct.unpack(">BxI", header)
        return PDU(pdu_type, self._read(length, ends))

    def read_end(self, deadline: float = DEADLINE) -> None:
        """Wait until the connection ends; nothing may be received before."""
        try:
            pdu = self.read_pdu(deadline)
        except Closed:
            return
        raise AssertionError(f"the connection should have ended, but {pdu} was received")

    def read_to_the_end(self) -> list[PDU]:
        """Return every PDU until the connection ends. Raises TimeoutError if it doesn't."""
        read = []
        try:
            while True:
                read.append(self.read_pdu())
        except Closed:
            return read

    def _read(self, count: int, ends: float) -> bytes:
        while len(self._received) < count:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer within the deadline")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError as error:
                raise Closed("reset") from error
            if not data:
                raise Closed(f"closed, after {len(self._received)} bytes")
            self._received += data
        self.sock.settimeout(DEADLINE)
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    # -- Associations ----------------------------------------------------------------------------------------------

    def associate(self, proposals: Sequence[Proposal] = CT_AND_ECHO, **options: Any) -> PDU:
        """Open an Association (options: those of `associate_rq`) and return the A-ASSOCIATE-AC."""
        options.setdefault("calling", self.calling)
        self.send(associate_rq(proposals, **options))
        self.accept = self.read_pdu()
        assert self.accept.type == wire.A_ASSOCIATE_AC, self.accept
        self.contexts = wire.accepted_contexts(self.accept.body)
        return self.accept

    def read_rejection(self) -> tuple[int, int, int]:
        """Return result, source and reason of the A-ASSOCIATE-RJ, which must come next."""
        pdu = self.read_pdu()
        assert pdu.type == wire.A_ASSOCIATE_RJ, pdu
        return pdu.body[1], pdu.body[2], pdu.body[3]

    def read_abort(self, deadline: float = DEADLINE) -> Abort:
        """Return the A-ABORT, which must come next, and require the connection to end after it."""
        pdu = self.read_pdu(deadline)
        assert pdu.type == wire.A_ABORT, pdu
        self.sock.shutdown(socket.SHUT_WR)
        self.read_end()
        return Abort(pdu.body[2], pdu.body[3])

    def release(self) -> None:
        """Release the Association and require the connection to end."""
        self.send(A_RELEASE_RQ_PDU)
        pdu = self.read_pdu()
        if pdu.type == wire.A_ABORT:
            raise Aborted(f"{pdu} instead of a release")
        assert pdu.type == wire.A_RELEASE_RP, pdu
        socket.socket.shutdown(self.sock, socket.SHUT_WR)  # SSLSocket.shutdown would drop the TLS state
        self.read_end()

    # -- messages --------------------------------------------------------------------------------------------------

    def read_message(self, deadline: float = DEADLINE) -> Message:
        """Return the next complete DIMSE message."""
        stream = []
        while True:
            pdu = self.read_pdu(deadline)
            if pdu.type == wire.A_ABORT:
                raise Aborted(f"{pdu} instead of a message")
            assert pdu.type == wire.P_DATA_TF, pdu
            stream.append(pdu)
            if message := next(wire.messages(stream), None):
                return message

    def store(self, instance: Instance, **options: Any) -> Message:
        """Send an instance (options: those of `store_message`) and return the response."""
        self.send(store_message(instance, **options))
        return self.read_message()

    def echo(self, context_id: int = 3) -> Message:
        """Send a C-ECHO-RQ and return the response."""
        self.send(p_data(pdv(context_id, 3, c_echo_rq())))
        return self.read_message()


def associate_rq(
    proposals: Sequence[Proposal] = CT_AND_ECHO,
    *,
    called: str = "DICOMD",
    calling: str = "RAWPEER",
    max_length: int = 0,
    application_context: str = APPLICATION_CONTEXT,
    user_information: Iterable[Any] = (),
) -> bytes:
    """An A-ASSOCIATE-RQ PDU; context IDs are 1, 3, 5, … in the order of the proposals."""
    request = A_ASSOCIATE()
    request.application_context_name = application_context
    request.calling_ae_title, request.called_ae_title = calling, called
    contexts = []
    for index, (abstract_syntax, transfer_syntaxes) in enumerate(proposals):
        context = PresentationContext()
        context.context_id = 2 * index + 1
        context.abstract_syntax, context.transfer_syntax = abstract_syntax, list(transfer_syntaxes)
        contexts.append(context)
    request.presentation_context_definition_list = contexts
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = max_length
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.10.1494.7"
    request.user_information = [maximum, implementation, *user_information]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return bytes(pdu.encode())


def window(operations: int) -> AsynchronousOperationsWindowNegotiation:
    """The sub-item that proposes to have so many operations outstanding, 0 for any number (PS3.7 §D.3.3.3)."""
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked, item.maximum_number_operations_performed = operations, 1
    return item


def c_store_rq(instance: Instance, message_id: int = 1, changes: dict[int, bytes | None] | None = None) -> bytes:
    """The Command Set of a C-STORE-RQ (PS3.7 Table 9.3-1); `changes` replaces elements, None leaves one out."""
    elements: dict[int, bytes | None] = {
        wire.AFFECTED_SOP_CLASS_UID: ui(instance.sop_class_uid),
        wire.COMMAND_FIELD: us(wire.C_STORE_RQ),
        wire.MESSAGE_ID: us(message_id),
        0x0700: us(0),
        wire.COMMAND_DATA_SET_TYPE: us(1),
        wire.AFFECTED_SOP_INSTANCE_UID: ui(instance.sop_instance_uid),
    }
    elements |= changes or {}
    return command_set({number: value for number, value in elements.items() if value is not None})


def c_echo_rq(message_id: int = 1, sop_class_uid: str = VERIFICATION) -> bytes:
    """The Command Set of a C-ECHO-RQ (PS3.7 Table 9.3-12)."""
    return request(wire.C_ECHO_RQ, sop_class_uid, message_id=message_id)


def request(command_field: int, sop_class_uid: str, *, message_id: int = 1, with_data_set: bool = False) -> bytes:
    """The Command Set of any request."""
    return command_set(
        {
            wire.AFFECTED_SOP_CLASS_UID: ui(sop_class_uid),
            wire.COMMAND_FIELD: us(command_field),
            wire.MESSAGE_ID: us(message_id),
            wire.COMMAND_DATA_SET_TYPE: us(1 if with_data_set else 0x0101),
        }
    )


def fragments(data: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """Pieces of at most `size` bytes, and whether each is the last."""
    for at in range(0, max(len(data), 1), size):
        yield data[at : at + size], at + size >= len(data)


def data_set_pdus(data: bytes, *, context_id: int = 1, fragment: int = 16000) -> bytes:
    """P-DATA-TFs of one PDV each with a Data Set."""
    return b"".join(p_data(pdv(context_id, 2 * last, piece)) for piece, last in fragments(data, fragment))


def store_message(
    instance: Instance,
    *,
    context_id: int = 1,
    message_id: int = 1,
    fragment: int = 16000,
    changes: dict[int, bytes | None] | None = None,
) -> bytes:
    """A whole C-STORE request as P-DATA-TFs."""
    command = p_data(pdv(context_id, 3, c_store_rq(instance, message_id, changes)))
    return command + data_set_pdus(instance.data_set, context_id=context_id, fragment=fragment)
