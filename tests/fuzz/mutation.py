"""Seeded damage to recorded connections: the same seed makes the same bytes, in every run and on every machine.

Half of the mutations know nothing about DICOM (bits, bytes, pieces that move). The other half aim at what a parser has
to be careful with: lengths, PDU types, Presentation Context IDs, UIDs, and the order of whole PDUs.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from tests.support import encoding, wire

_BYTES = (0, 1, 2, 3, 4, 7, 0x7F, 0x80, 0xFE, 0xFF)
_LENGTHS = (0, 1, 2, 3, 67, 68, 0x7FFF, 0xFFFF, 0x40001, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_TRICKS = (b"..", b"../../../../etc/passwd", b"/", b"\0", b"1.2/../3", b"1.2.\xff", b"1" * 65, b"1..2", b"")


def mutated(streams: Sequence[bytes], seed: int) -> bytes:
    """One of the streams, damaged one to four times."""
    rng = random.Random(seed)
    stream = bytearray(rng.choice(streams))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if not stream:
            break
        rng.choice(_MUTATIONS)(stream, rng)
    return bytes(stream)


def _position(stream: bytearray, rng: random.Random) -> int:
    """A random position, more often near the beginning, because the headers are there."""
    return rng.randrange(len(stream)) if rng.random() < 0.6 else rng.randrange(min(len(stream), 300))


def _flip_bit(stream: bytearray, rng: random.Random) -> None:
    stream[_position(stream, rng)] ^= 1 << rng.randrange(8)


def _set_byte(stream: bytearray, rng: random.Random) -> None:
    stream[_position(stream, rng)] = rng.choice(_BYTES)


def _cut_off(stream: bytearray, rng: random.Random) -> None:
    del stream[_position(stream, rng) :]


def _delete(stream: bytearray, rng: random.Random) -> None:
    at = _position(stream, rng)
    del stream[at : at + rng.choice((1, 2, 4, 20, 200))]


def _repeat(stream: bytearray, rng: random.Random) -> None:
    at = _position(stream, rng)
    stream[at:at] = stream[at : at + rng.choice((1, 2, 4, 20, 200))]


def _insert_noise(stream: bytearray, rng: random.Random) -> None:
    at = _position(stream, rng)
    stream[at:at] = rng.randbytes(rng.choice((1, 4, 60, 1000)))


def _set_length(stream: bytearray, rng: random.Random) -> None:
    """Replace four or two bytes that are read as a length."""
    at = _position(stream, rng)
    form, most = rng.choice(((">I", 4), ("<I", 4), (">H", 2), ("<H", 2)))
    if at + most <= len(stream):
        struct.pack_into(form, stream, at, rng.choice(_LENGTHS) & ((1 << 8 * most) - 1))


def _shuffle_pdus(stream: bytearray, rng: random.Random) -> None:
    """Reorder whole PDUs, or repeat or drop one."""
    try:
        whole = [encoding.pdu(pdu.type, pdu.body) for pdu in wire.pdus(bytes(stream))]
    except wire.WireError:
        return
    at = rng.randrange(len(whole))
    choice = rng.randrange(3)
    if choice == 0:
        rng.shuffle(whole)
    elif choice == 1:
        whole.insert(rng.randrange(len(whole) + 1), whole[at])
    else:
        del whole[at]
    stream[:] = b"".join(whole)


def _trick_uid(stream: bytearray, rng: random.Random) -> None:
    """Replace a UID with something that must never reach a path, of equal length so that the rest stays valid."""
    starts = [at for at in range(len(stream) - 8) if stream[at : at + 4] == b"1.2."]
    if starts:
        trick = rng.choice(_TRICKS)[:8]
        at = rng.choice(starts)
        stream[at : at + len(trick)] = trick


_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bit,
    _set_byte,
    _cut_off,
    _delete,
    _repeat,
    _insert_noise,
    _set_length,
    _set_length,
    _shuffle_pdus,
    _trick_uid,
)
