"""Tells whether a stored Data Set is cut off, for files that have no checksum to compare.

A Data Set is stored as it was received, and what follows its head is read by nobody. So only what can't be a sender's
doing, or would be useless if it were, counts as damage: an element that doesn't end before the file does, or something
that is no element at all. Everything that senders do and readers cope with passes: bytes behind the last element, VRs
that the Transfer Syntax doesn't announce, delimiters with a length or without what they end, odd lengths.
"""

from __future__ import annotations

import os
import zlib
from typing import Final

from dicomd.store.element_encoding import (
    DEFLATED,
    ENCODINGS,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ElementEncoding,
    actual_encoding,
    is_vr,
)
from dicomd.store.head import MAX_NESTING

_STEP: Final = 1 << 20
_WINDOW: Final = 1 << 13
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM_GROUP: Final = 0xFFFE
_ITEM: Final = 0xFFFEE000
_SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
_DELIMITER_LITTLE: Final = b"\xfe\xff\xdd\xe0"
_DELIMITER_BIG: Final = b"\xff\xfe\xe0\xdd"
_FIRST_PIXEL_DATA: Final = 0x7FE00001  # Extended Offset Table, before Float, Double Float and other Pixel Data
_UNKNOWN_VRS: Final = frozenset({0x3F3F, 0x2020, 0x0000})
"""Question marks, spaces and NULs, which some writers put where they don't know the VR; the length has 16 bits."""

CUT_OFF: Final = "its Data Set ends inside an element: unless it was sent like that, it was cut off here"
DAMAGED_STREAM: Final = "its deflated Data Set is cut off or damaged"
NO_ELEMENT: Final = "its Data Set holds something that is no element"


class _CutOffError(Exception):
    """An element, item or sequence that is longer than the file."""


def damage(fd: int, data_set_offset: int, transfer_syntax_uid: str) -> str:
    """Return what is wrong with the Data Set in the file open as ``fd``, "" if it is whole. Raises OSError."""
    if transfer_syntax_uid in DEFLATED:
        return "" if _is_whole_stream(fd, data_set_offset) else DAMAGED_STREAM
    try:
        return "" if _Elements(fd, data_set_offset, transfer_syntax_uid).follow() else NO_ELEMENT
    except _CutOffError:
        return CUT_OFF


class _Elements:
    """The elements of a Data Set, followed by their lengths without reading the values."""

    def __init__(self, fd: int, at: int, transfer_syntax_uid: str) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._window = b""
        self._begin = 0  # of the window
        self._at = at
        self._encoding = ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LITTLE)
        if self._size - at >= 8:
            self._encoding = actual_encoding(self._encoding, *self._read(at + 4, 2))
        # The open sequences and items of undefined length: whether it is a sequence, and the encoding of its contents.
        self._open: list[tuple[bool, ElementEncoding]] = []
        self._last = 0  # the tag of the last element at the top level

    def follow(self) -> bool:
        """Follow the elements to the end of the file; return false if there is none where one should be."""
        while self._size - self._at >= 8 and len(self._open) <= MAX_NESTING:
            in_sequence, encoding = self._open[-1] if self._open else (False, self._encoding)
            group, number, length = encoding.item(self._read(self._at, 8), 0)
            tag = group << 16 | number
            if group == _ITEM_GROUP and not self._open:
                self._at += 8  # a delimiter that some writers put behind a sequence of known length, too
            elif group == _ITEM_GROUP:
                self._follow_item(tag, length, encoding, in_sequence=in_sequence)
            elif in_sequence:
                self._find_delimiter(_DELIMITER_BIG if encoding is EXPLICIT_BIG else _DELIMITER_LITTLE)
            elif not self._follow_element(tag, encoding):
                return self._only_padding_is_left()
        if 0 < len(self._open) <= MAX_NESTING:
            raise _CutOffError
        return True  # or it is nested more deeply than anything real, and isn't followed any further

    def _follow_item(self, tag: int, length: int, encoding: ElementEncoding, *, in_sequence: bool) -> None:
        self._at += 8
        if tag == _ITEM and in_sequence:
            if length == _UNDEFINED:
                self._open.append((False, encoding))
            else:
                self._skip(length)
        elif tag == _ITEM:  # the delimiter of the item before is missing
            self._open.pop()
            self._at -= 8
        elif tag == _SEQUENCE_DELIMITATION:
            if not in_sequence:
                self._open.pop()
            self._open.pop()
        elif not in_sequence:
            self._open.pop()

    def _follow_element(self, tag: int, encoding: ElementEncoding) -> bool:
        at = self._at
        at_top = not self._open
        if at_top and (tag < 0x00010000 or (self._last >= _FIRST_PIXEL_DATA and tag <= self._last)):
            return False
        vr = 0
        value = at + 8
        _, _, length = encoding.item(self._read(at, 8), 0)
        if encoding.explicit:
            _, _, vr, short_length = encoding.header(self._read(at, 8), 0)
            if vr in encoding.short_vrs or vr in _UNKNOWN_VRS:
                length = short_length
            elif is_vr(vr):
                value += 4
                if value > self._size:
                    raise _CutOffError
                (length,) = encoding.length(self._read(at + 8, 4), 0)
            elif (at_top and tag <= self._last) or value + length > self._size:
                return False  # no VR, and not an element with implicit VR among the others either
        self._at = value
        if length == _UNDEFINED:
            is_unknown = encoding.explicit and vr == encoding.un  # PS3.5 §6.2.2: it holds Implicit VR Little Endian
            self._open.append((True, IMPLICIT_LITTLE if is_unknown else encoding))
        else:
            self._skip(length)
        if at_top:
            self._last = tag
        return True

    def _only_padding_is_left(self) -> bool:
        """Return whether what is no element is behind the Data Set: anything behind Pixel Data, else zeros."""
        if self._open or self._last >= _FIRST_PIXEL_DATA:
            return not self._open
        at = self._at
        while data := os.pread(self._fd, _STEP, at):
            if data.strip(b"\0"):
                return False
            at += len(data)
        return True

    def _find_delimiter(self, delimiter: bytes) -> None:
        """Go behind the delimiter of a value that doesn't consist of items, as some private ones don't."""
        at = self._at
        while len(data := os.pread(self._fd, _STEP, at)) >= 8:
            found = data.find(delimiter)
            if found >= 0:
                self._at = at + found + 8
                self._open.pop()
                return
            at += len(data) - 3
        raise _CutOffError

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > self._size:
            raise _CutOffError

    def _read(self, at: int, count: int) -> bytes:
        """Return ``count`` bytes, fewer at the end of the file."""
        if not self._begin <= at <= self._begin + len(self._window) - count:
            self._window = os.pread(self._fd, _WINDOW, at)
            self._begin = at
        return self._window[at - self._begin : at - self._begin + count]


def _is_whole_stream(fd: int, at: int) -> bool:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while data := os.pread(fd, _STEP, at):
        at += len(data)
        try:
            while data and not inflater.eof:
                inflater.decompress(data, _STEP)
                data = inflater.unconsumed_tail
        except zlib.error:
            return False
    return inflater.eof
