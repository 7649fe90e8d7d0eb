"""A stream of bytes as the PDU reader takes it, cut in any way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dicomd.upperlayer.pdus import COMMAND, LAST
from dicomd.upperlayer.reader import PDU, Fragment, PDUError, PDUReader


def fed(reader: PDUReader, chunks: Iterable[bytes], *, short_way: bool = True) -> Iterator[PDU | Fragment | PDUError]:
    """What the reader says of the chunks, its errors among it; a fragment's data stand until the next is asked for.

    Once data are expected, what is ordinary comes by the short way, if wanted.
    """
    for chunk in chunks:
        at = 0
        while True:
            if short_way:
                yield from (Fragment(*each) for each in reader.next_fragments())
            try:
                event = reader.next_event()
            except PDUError as error:
                yield error
                continue
            if event is not None:
                yield event
                continue
            if at == len(chunk):
                break
            if reader.must_rewind:
                reader.rewind()
            count = min(len(reader.space()), len(chunk) - at)
            assert count > 0, "the reader must always find room"
            reader.space()[:count] = chunk[at : at + count]
            reader.received(count)
            at += count


def joined(events: Iterable[object]) -> list[object]:
    """The events, fragments of what belongs together as one: how many there are depends on the cutting."""
    seen: list[object] = []
    for event in events:
        if not isinstance(event, Fragment):
            seen.append(event)
            continue
        last, piece = seen[-1] if seen else None, bytes(event.data)
        is_command, is_last = bool(event.control & COMMAND), bool(event.control & LAST)
        if isinstance(last, list) and last[:2] == [event.context_id, is_command] and not last[2]:
            last[2], last[3] = is_last, last[3] + piece
        elif piece or is_last:
            seen.append([event.context_id, is_command, is_last, piece])
    return seen
