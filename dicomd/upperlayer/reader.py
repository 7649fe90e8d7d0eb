"""Turns received bytes into PDUs and PDV fragments; it owns no socket and copies no Data Set.

Invariant: memory is bounded by the limit of each PDU type. A PDU that must be complete to be understood is collected up
to that limit, and an A-ASSOCIATE-RQ, which may be long, only as the first PDU of a connection; the fragments of a
P-DATA-TF are returned as they arrive, as views of the receive buffer. The caller calls `next_event()` until it returns
None, then receives into `space()` and reports the count to `received()`:

    event = reader.next_event()        # PDU | Fragment | None: more bytes are needed
    count = sock.recv_into(reader.space())
    reader.received(count)

Before each `next_event()`, the caller may try `next_fragments()`, a fast path for the common case.
Views stay valid until `rewind()` (due when `must_rewind` is true) or `start_over()`.
"""

from __future__ import annotations

from typing import NamedTuple

from dicomd.aborts import AbortReason
from dicomd.upperlayer.pdus import (
    COMMAND,
    LAST,
    P_DATA_TF,
    PDU_HEADER,
    PDV_HEADER,
    SINGLE_PDV_HEADER,
    PDUType,
)

SMALLEST_SPACE = 4096
"""Bytes. With less room than this at its end the buffer is rewound, or else reads would become tiny."""

_MOST_AT_ONCE = 64
"""PDUs returned at once. A buffer has room for 12,000 PDUs of one byte, and the view of each costs memory."""

MAX_ASSOCIATE_RQ = 256 * 1024
"""Bytes. 128 Presentation Contexts with all known transfer syntaxes take 120 KiB; no honest peer needs more."""


class PDU(NamedTuple):
    """A PDU that has arrived, complete with its `body`; that of a P-DATA-TF is empty, its fragments follow as events.

    The `body` of an A-ASSOCIATE-RQ or -AC that is out of place is empty, and skipped.
    Once established, only fragments matter; a P-DATA-TF itself is no longer reported (see `expect_data`).
    """

    pdu_type: int
    body: bytes


class Fragment(NamedTuple):
    """A piece of a Presentation Data Value (PS3.8 §9.3.5.1, Annex E.2).

    `control` is the message control header, with the bits `COMMAND` and `LAST`. `LAST` is set only in the last piece of
    the PDV that ends the Command Set or Data Set. `data` is a view of the receive buffer.
    """

    context_id: int
    control: int
    data: memoryview


class PDUError(Exception):
    """The bytes are not a valid PDU; the answer is an A-ABORT with this `reason` (PS3.8 Table 9-26).

    `limit` is the limit that they exceed, "" if none; `header` is that of the connection's first PDU, if its type is
    not defined.
    """

    def __init__(self, reason: AbortReason, message: str, limit: str = "", *, header: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.limit = limit
        self.header = header


# For `next_fragments`, which needs them for each PDU: a global costs less to look up than an attribute.
_HEADERS_SIZE = SINGLE_PDV_HEADER.size
_PDU_HEADER_SIZE = PDU_HEADER.size
_unpack_headers = SINGLE_PDV_HEADER.unpack_from

P_DATA_STARTED = PDU(PDUType.P_DATA_TF, b"")

_FIXED_LENGTHS = {
    PDUType.A_ASSOCIATE_RJ: 4,
    PDUType.A_RELEASE_RQ: 4,
    PDUType.A_RELEASE_RP: 4,
    PDUType.A_ABORT: 4,
}
_SMALLEST_ASSOCIATE = 68


class PDUReader:
    """The receiving half of one Association's connection.

    `buffer` is writable, contiguous memory of at least `SMALLEST_SPACE` bytes; `max_pdu` the length in bytes of the
    longest P-DATA-TF that is accepted, as advertised in the A-ASSOCIATE-AC.
    """

    __slots__ = (
        "_body",
        "_body_length",
        "_buffer",
        "_capacity",
        "_control",
        "_data_expected",
        "_end",
        "_is_first",
        "_max_pdu",
        "_pdu_left",
        "_pdu_type",
        "_pdv_context_id",
        "_pdv_left",
        "_skip",
        "_start",
    )

    def __init__(self, buffer: memoryview, *, max_pdu: int) -> None:
        self._buffer = buffer
        self._capacity = len(buffer)
        self._max_pdu = max_pdu
        self._start = self._end = 0  # received but not yet returned: buffer[start:end]
        self._pdu_type = 0
        self._pdu_left = 0  # bytes of the current P-DATA-TF beyond the current PDV
        self._pdv_left = 0  # bytes of the current PDV not yet returned
        self._pdv_context_id = 0
        self._control = 0  # the message control header of the current PDV
        self._body: bytearray | None = None  # of a PDU that has to be complete
        self._body_length = 0
        self._skip = 0  # bytes to skip
        self._data_expected = False
        self._is_first = True  # the next PDU is

    # -- the caller's side of the buffer ---------------------------------------------------------------------------

    @property
    def must_rewind(self) -> bool:
        """Whether the buffer has no useful room left, so that the views must be consumed before the next read."""
        return self._capacity - self._end < SMALLEST_SPACE

    @property
    def at_boundary(self) -> bool:
        """Whether every received byte has been returned and no PDU is incomplete."""
        return self._start == self._end and not self.inside_pdu

    @property
    def inside_pdu(self) -> bool:
        """Whether the header of a PDU has been read, but its rest is still to come."""
        return bool(self._pdu_left or self._pdv_left or self._skip) or self._body is not None

    @property
    def body_length(self) -> int:
        """Bytes behind the header of the PDU that is being collected, 0 where none is."""
        return 0 if self._body is None else self._body_length

    @property
    def unread(self) -> int:
        """Bytes received but not yet returned."""
        return self._end - self._start

    @property
    def pdv_left(self) -> int:
        """Bytes of the current PDV that have not been returned yet."""
        return self._pdv_left

    @property
    def due(self) -> int:
        """Bytes of the current PDV that have not been received yet; negative if more than that has been received."""
        return self._pdv_left - self._end + self._start

    def space(self) -> memoryview:
        """Return the part of the buffer to receive the next bytes into."""
        return self._buffer[self._end :]

    def received(self, count: int) -> None:
        """Record that `count` bytes have been received into the start of `space()`."""
        self._end += count

    def rewind(self, buffer: memoryview | None = None) -> None:
        """Make room by moving the bytes not yet returned to the front, or into `buffer` if a new one is given.

        Invalidates every view returned before. A new buffer must be longer than the bytes not yet returned.
        """
        left = self._end - self._start
        target = self._buffer if buffer is None else buffer
        if left and (self._start or buffer is not None):
            target[:left] = bytes(self._buffer[self._start : self._end])
        self._buffer = target
        self._capacity = len(target)
        self._start = 0
        self._end = left

    def start_over(self) -> None:
        """Receive the next bytes at the front of the buffer. Only `at_boundary`, and when no view is in use."""
        self._start = self._end = 0

    # -- what the bytes mean ---------------------------------------------------------------------------------------

    def expect_data(self) -> None:
        """From now on accept P-DATA-TFs, and report only their fragments."""
        self._data_expected = True

    def next_event(self) -> PDU | Fragment | None:
        """Return the next PDU or fragment, or None when more bytes are needed.

        Raises `PDUError` for a PDU that is unknown, too long or malformed. Its remaining bytes are then skipped, so
        that reading can continue after it.
        """
        while True:
            available = self._end - self._start
            if self._pdv_left:
                return self._fragment(available)
            if self._pdu_left:
                if available < PDV_HEADER.size <= self._pdu_left:
                    return None
                if (empty := self._pdv_header()) is not None:
                    return empty
            elif self._skip:
                if not available:
                    return None
                count = min(available, self._skip)
                self._start += count
                self._skip -= count
            elif self._body is not None:
                return self._whole_pdu(self._body, available)
            elif available < PDU_HEADER.size:
                return None
            elif (pdu := self._pdu_header()) is not None:
                return pdu

    def next_fragments(self) -> list[tuple[int, int, memoryview]]:
        """Return the next fragments, each as the fields of a `Fragment`. Fast path for `next_event`.

        Must behave exactly like `next_event`, but stops at a fragment that isn't the only or the last one of its
        P-DATA-TF. All fragments belong to one message, since a Command Set can only be the first one; there are at most
        `_MOST_AT_ONCE` and one more. If the list is empty, call `next_event`: more bytes are needed or something else
        comes next. `next_event` handles everything, errors included, but takes some three times the bytecodes for each
        PDU, and DCMTK's senders divide 512 KiB into 33 PDUs.
        """
        found: list[tuple[int, int, memoryview]] = []
        start = self._start
        end = self._end
        if start == end or self._pdu_left or self._skip or self._body is not None or not self._data_expected:
            return found
        if self._pdv_left:
            if (rest := self._fragment(end - start)) is None:
                return found
            found.append(rest)
            if self._pdv_left:
                return found
            start = self._start
        buffer = self._buffer
        longest = self._max_pdu
        for _ in range(_MOST_AT_ONCE):
            if end - start < _HEADERS_SIZE:
                break
            pdu_type, length, pdv_length, context_id, control = _unpack_headers(buffer, start)
            if pdu_type != P_DATA_TF or length != pdv_length + 4 or not 6 < length <= longest:
                break
            if control & COMMAND and found:
                break
            data = start + _HEADERS_SIZE
            start += _PDU_HEADER_SIZE + length
            if start > end:
                self._start = data
                self._pdv_left = length - 6
                self._pdv_context_id = context_id
                self._control = control
                if (piece := self._fragment(end - data)) is not None:
                    found.append(piece)
                break
            self._start = start
            found.append((context_id, control, buffer[data:start]))
        return found

    def skip_pdu(self) -> None:
        """Skip the rest of the current P-DATA-TF."""
        self._skip += self._pdv_left + self._pdu_left
        self._pdv_left = self._pdu_left = 0

    def _pdu_header(self) -> PDU | None:
        pdu_type, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        self._start += PDU_HEADER.size
        is_first = self._is_first
        self._is_first = False
        if pdu_type == P_DATA_TF:
            if length > self._max_pdu:
                self._skip = length
                raise PDUError(
                    AbortReason.INVALID_PDU_PARAMETER,
                    f"P-DATA-TF of {length} bytes exceeds {self._max_pdu}",
                    "max_pdu",
                )
            if length < PDV_HEADER.size:
                self._skip = length
                raise PDUError(AbortReason.INVALID_PDU_PARAMETER, "P-DATA-TF too short for a PDV")
            self._pdu_left = length
            return None if self._data_expected else P_DATA_STARTED
        fixed = _FIXED_LENGTHS.get(pdu_type)
        if fixed is not None:
            valid = length == fixed
        elif pdu_type in (PDUType.A_ASSOCIATE_RQ, PDUType.A_ASSOCIATE_AC):
            valid = _SMALLEST_ASSOCIATE <= length <= MAX_ASSOCIATE_RQ
        else:
            self._skip = length
            raise PDUError(
                AbortReason.UNRECOGNIZED_PDU,
                f"PDU type {pdu_type:02X}H is not defined by PS3.8",
                header=bytes(self._buffer[self._start - PDU_HEADER.size : self._start]) if is_first else b"",
            )
        if not valid:
            self._skip = length
            raise PDUError(
                AbortReason.INVALID_PDU_PARAMETER,
                f"{PDUType(pdu_type).name.replace('_', '-')} of {length} bytes",
                "associate_rq" if fixed is None and length > MAX_ASSOCIATE_RQ else "",
            )
        if fixed is None and not (is_first and pdu_type == PDUType.A_ASSOCIATE_RQ):
            self._skip = length
            return PDU(pdu_type, b"")
        if self._end - self._start >= length:
            body = bytes(self._buffer[self._start : self._start + length])
            self._start += length
            return PDU(pdu_type, body)
        self._pdu_type = pdu_type
        self._body = bytearray()
        self._body_length = length
        return None

    def _whole_pdu(self, body: bytearray, available: int) -> PDU | None:
        count = min(available, self._body_length - len(body))
        body += self._buffer[self._start : self._start + count]
        self._start += count
        if len(body) < self._body_length:
            return None
        self._body = None
        return PDU(self._pdu_type, bytes(body))

    def _pdv_header(self) -> Fragment | None:
        if self._pdu_left < PDV_HEADER.size:
            self.skip_pdu()
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, "extra bytes after the last PDV of a P-DATA-TF")
        length, context_id, control = PDV_HEADER.unpack_from(self._buffer, self._start)
        self._start += PDV_HEADER.size
        self._pdu_left -= 4 + length
        if length < 2 or self._pdu_left < 0:  # the context ID and the message control header
            self._pdu_left = max(0, self._pdu_left + 4 + length - PDV_HEADER.size)
            self.skip_pdu()
            raise PDUError(AbortReason.INVALID_PDU_PARAMETER, f"PDV of {length} bytes")
        self._pdv_left = length - 2
        self._pdv_context_id = context_id
        self._control = control
        if not self._pdv_left:  # an empty fragment can still be the last one
            return Fragment(context_id, control, self._buffer[:0])
        return None

    def _fragment(self, available: int) -> Fragment | None:
        left = self._pdv_left
        if available < left:
            # Return part of a PDV only when the buffer is full, for fewer and larger writes.
            if not available or self._capacity - self._end >= SMALLEST_SPACE:
                return None
            count = available
        else:
            count = left
        start = self._start
        self._start = start + count
        self._pdv_left = left = left - count
        control = self._control & ~LAST if left else self._control
        return Fragment(self._pdv_context_id, control, self._buffer[start : start + count])
