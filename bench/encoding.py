"""Encodes PDUs, Command Sets and P-DATA streams for a requestor that sends a single, synthetic Data Set.

Uses only the standard library. What is sent more than once is encoded only once: a C-STORE stream is encoded once for
an Association, and then only the digits of the SOP Instance UID are changed in place for each instance.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BlastError

CT_IMAGE_STORAGE = b"1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = b"1.2.840.10008.1.1"
EXPLICIT_VR_LITTLE_ENDIAN = b"1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
A_ASSOCIATE_RQ, A_ASSOCIATE_AC, P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP = 1, 2, 4, 5, 6
STORAGE_CONTEXT, VERIFICATION_CONTEXT = 1, 3
UID_DIGITS = 38  # "2.25." and 38 digits: below 2**128, never a leading zero, always the same length
DEFAULT_MAXIMUM_LENGTH = 16384
LARGEST_FRAGMENT = 1 << 20  # where the receiver sets no maximum or a huge one
IN_ONE_PIECE = 8 << 20  # a stream up to this many bytes is encoded whole; a larger one repeats its middle


def item(kind: int, body: bytes) -> bytes:
    """Encode an item or sub-item of an A-ASSOCIATE PDU (PS3.8 §9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_rq(called: str, calling: str, window: int = 1) -> bytes:
    """Encode an A-ASSOCIATE-RQ PDU that proposes CT Image Storage and Verification (PS3.8 §9.3.2).

    A `window` above 1 is proposed as the number of operations that may be outstanding (PS3.7 §D.3.3.3).
    """
    contexts = b"".join(
        item(0x20, struct.pack(">BBBB", identifier, 0, 0, 0) + item(0x30, uid) + item(0x40, EXPLICIT_VR_LITTLE_ENDIAN))
        for identifier, uid in ((STORAGE_CONTEXT, CT_IMAGE_STORAGE), (VERIFICATION_CONTEXT, VERIFICATION))
    )
    user = item(0x51, struct.pack(">I", 0)) + item(0x52, b"2.25.1") + item(0x55, b"BLAST_1")
    if window > 1:
        user += item(0x53, struct.pack(">HH", window, 1))
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode("ascii"), calling.ljust(16).encode("ascii"))
    body += item(0x10, APPLICATION_CONTEXT) + contexts + item(0x50, user)
    return struct.pack(">BBI", A_ASSOCIATE_RQ, 0, len(body)) + body


def accepted(accept: bytes, needed: Sequence[int]) -> tuple[int, int]:
    """Read from the body of an A-ASSOCIATE-AC the receiver's maximum PDU length, 0 for no maximum (PS3.8 §D.1).

    The second number is how many operations may be outstanding, 0 for any number. Raises BlastError if a Presentation
    Context of `needed` was not accepted.
    """
    maximum, window, results, at = DEFAULT_MAXIMUM_LENGTH, 1, {}, 68
    while at < len(accept):
        kind, length = struct.unpack_from(">BxH", accept, at)
        if kind == 0x21:
            results[accept[at + 4]] = accept[at + 6]
        if kind == 0x50:
            sub, end = at + 4, at + 4 + length
            while sub < end:
                sub_kind, sub_length = struct.unpack_from(">BxH", accept, sub)
                if sub_kind == 0x51:
                    maximum = struct.unpack_from(">I", accept, sub + 4)[0]
                if sub_kind == 0x53:
                    window = struct.unpack_from(">H", accept, sub + 4)[0]
                sub += 4 + sub_length
        at += 4 + length
    for identifier in needed:
        if results.get(identifier) != 0:
            raise BlastError(f"Presentation Context {identifier} refused: result {results.get(identifier)}")
    return maximum, window


def padded(value: bytes, pad: bytes) -> bytes:
    """Pad `value` to an even length."""
    return value + pad if len(value) % 2 else value


def command_element(number: int, value: bytes) -> bytes:
    """Encode an element of group 0000, in Implicit VR Little Endian (PS3.7 §6.3.1)."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def command_set(*elements: bytes) -> bytes:
    """Put the Command Group Length in front of the elements (PS3.7 §E.1)."""
    body = b"".join(elements)
    return command_element(0, struct.pack("<I", len(body))) + body


def c_store_rq(instance_uid: bytes) -> bytes:
    """Encode the Command Set of a C-STORE-RQ (PS3.7 §9.3.1.1). Message ID is 1."""
    return command_set(
        command_element(0x0002, padded(CT_IMAGE_STORAGE, b"\0")),
        command_element(0x0100, struct.pack("<H", 0x0001)),
        command_element(0x0110, struct.pack("<H", 1)),
        command_element(0x0700, struct.pack("<H", 0)),
        command_element(0x0800, struct.pack("<H", 0x0001)),
        command_element(0x1000, padded(instance_uid, b"\0")),
    )


def c_echo_rq() -> bytes:
    """Encode the Command Set of a C-ECHO-RQ, Message ID 1 (PS3.7 §9.3.5.1)."""
    return command_set(
        command_element(0x0002, padded(VERIFICATION, b"\0")),
        command_element(0x0100, struct.pack("<H", 0x0030)),
        command_element(0x0110, struct.pack("<H", 1)),
        command_element(0x0800, struct.pack("<H", 0x0101)),
    )


def answer_of(response: bytes) -> tuple[int, int]:
    """Read from the body of a response's only P-DATA-TF the Message ID Being Responded To, and the Status.

    Raises BlastError if one is missing.
    """
    at, message_id = 6, -1  # past the PDV's length, context ID and message control header
    while at + 8 <= len(response):
        _, number, length = struct.unpack_from("<HHI", response, at)
        if number == 0x0120:
            message_id = struct.unpack_from("<H", response, at + 8)[0]
        elif number == 0x0900 and message_id >= 0:
            return message_id, int(struct.unpack_from("<H", response, at + 8)[0])
        at += 8 + length
    raise BlastError("a response without a Message ID or a Status")


def data_element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Encode an element with a short VR in Explicit VR Little Endian (PS3.5 §7.1.2)."""
    value = padded(value, b"\0" if vr == b"UI" else b" ")
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def data_set_head(instance_uid: bytes, study_uid: bytes, pixel_bytes: int) -> bytes:
    """Encode a CT Data Set in Explicit VR Little Endian, without the `pixel_bytes` bytes of Pixel Data at its end."""
    return b"".join(
        (
            data_element(0x0008, 0x0016, b"UI", CT_IMAGE_STORAGE),
            data_element(0x0008, 0x0018, b"UI", instance_uid),
            data_element(0x0008, 0x0060, b"CS", b"CT"),
            data_element(0x0010, 0x0010, b"PN", b"Load^Test"),
            data_element(0x0010, 0x0020, b"LO", b"LOAD"),
            data_element(0x0020, 0x000D, b"UI", study_uid),
            data_element(0x0020, 0x000E, b"UI", study_uid + b".1"),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixel_bytes),
        )
    )


def p_data_tf(fragment: bytes, control: int, context: int) -> bytes:
    """Encode a P-DATA-TF with one PDV (PS3.8 §9.3.5); `control` has bit 0 for a command, bit 1 for a last fragment."""
    return struct.pack(">BBIIBB", P_DATA_TF, 0, len(fragment) + 6, len(fragment) + 2, context, control) + fragment


def random_uid() -> bytes:
    """Make a new UID, "2.25." and UID_DIGITS digits (PS3.5 §B.2)."""
    return b"2.25.%d" % (10 ** (UID_DIGITS - 1) + secrets.randbelow(9 * 10 ** (UID_DIGITS - 1)))


@dataclass
class InstanceStream:
    """The P-DATA stream of C-STORE requests that differ only in their SOP Instance UID.

    `first` holds the command and the beginning of the Data Set. It is followed by `block`, `repeats` times, and `last`.
    """

    first: bytearray
    block: bytes
    repeats: int
    last: bytes
    number: int
    uid_at: tuple[int, ...]
    message_id_at: int

    @classmethod
    def encode(cls, size: int, maximum_length: int) -> InstanceStream:
        """Encode instances with `size` bytes of Pixel Data (even), for a receiver whose limit is `maximum_length`."""
        uid = random_uid()
        command = p_data_tf(c_store_rq(uid), 3, STORAGE_CONTEXT)
        head = data_set_head(uid, random_uid(), size)
        step = min((maximum_length or LARGEST_FRAGMENT) - 6, LARGEST_FRAGMENT) & ~1
        total = len(head) + size
        pixels = secrets.token_bytes(step)
        if step < len(head):
            raise BlastError(f"a maximum PDU length of {maximum_length} is too short for this sender")
        if total <= step:
            first = command + p_data_tf(head + pixels[:size], 2, STORAGE_CONTEXT)
            block, repeats, last = b"", 0, b""
        else:
            first = command + p_data_tf(head + pixels[: step - len(head)], 0, STORAGE_CONTEXT)
            whole, rest = divmod(total - step, step)
            if not rest:
                whole, rest = whole - 1, step
            one = p_data_tf(pixels, 0, STORAGE_CONTEXT)
            last = p_data_tf(pixels[:rest], 2, STORAGE_CONTEXT)
            if total <= IN_ONE_PIECE:
                first, block, repeats, last = first + one * whole + last, b"", 0, b""
            else:
                side_by_side = max(1, LARGEST_FRAGMENT // len(one))  # a sendall of 16 KiB would measure the sender
                repeats, left = divmod(whole, side_by_side)
                block, last = one * side_by_side, one * left + last
        found, at = [], first.find(uid)
        while 0 <= at < len(command) + len(head) + 12:
            found.append(at + len(b"2.25."))
            at = first.find(uid, at + 1)
        message_id_at = first.find(command_element(0x0110, b"\1\0")) + 8
        return cls(bytearray(first), block, repeats, last, int(uid[5:]), tuple(found), message_id_at)

    def renew(self, message_id: int = 1) -> None:
        """Change to the next SOP Instance UID, and to this Message ID."""
        self.number += 1
        struct.pack_into("<H", self.first, self.message_id_at, message_id)
        digits = b"%d" % self.number
        for at in self.uid_at:
            self.first[at : at + UID_DIGITS] = digits

    def send(self, sock: socket.socket) -> None:
        """Send the stream."""
        sock.sendall(self.first)
        for _ in range(self.repeats):
            sock.sendall(self.block)
        if self.last:
            sock.sendall(self.last)
