"""Feeds a byte stream to the PDU reader, cut into chunks in any way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dicomd.upperlayer.pdus import COMMAND, LAST
from dicomd.upperlayer.reader import PDU, Fragment, PDUError, PDUReader


def fed(reader: PDUReader, chunks: Iterable[bytes], *, short_way: bool = True) -> Iterator[PDU | Fragment | PDUError]:
    """Yield the reader's events for the chunks, including errors; a fragment's data is valid until the next event.

    Once data is expected, ordinary fragments are read by the fast path if `short_way`.
    """
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if reader.must_rewind:
                reader.rewind()
            space = reader.space()
            count = min(len(space), len(chunk) - at)
            assert count > 0, "the reader must always have room"
            space[:count] = chunk[at : at + count]
            reader.received(count)
            at += count
            while True:
                if short_way:
                    yield from (Fragment(*each) for each in reader.next_fragments())
                try:
                    event = reader.next_event()
                except PDUError as error:
                    yield error
                    continue
                if event is None:
                    break
                yield event


def joined(events: Iterable[object]) -> list[object]:
    """The events with consecutive fragments joined, because the number of fragments depends on the chunks."""
    seen: list[object] = []
    for event in events:
        if not isinstance(event, Fragment):
            seen.append(event)
            continue
        last, piece = seen[-1] if seen else None, bytes(event.data)
        is_command, is_last = bool(event.control & COMMAND), bool(event.control & LAST)
        if isinstance(last, list) and last[:2] == [event.context_id, is_command] and not last[2]:
            last[2] = is_last
            last[3] += piece
        elif piece or is_last:
            seen.append([event.context_id, is_command, is_last, bytearray(piece)])
    return seen
