"""Scans the head of a Data Set as it is received, for what the layout and the checks against the command need.

Invariant: one pass and constant memory, however the fragments are cut. Unwanted values are skipped without being kept,
at most 80 bytes of a wanted one are kept, with nothing but padding behind them if they are a UID, nesting is bounded,
and a deflated head is inflated piece by piece up to a limit. The scan ends once all wanted elements are found, at the
first top-level element beyond (0020,000E) after SOP Class and SOP Instance UID, or with the Data Set: those two are
always compared with the command's. Four UIDs are always wanted, others only on demand.

Elements out of order (a violation of PS3.5 §7.1) are accepted until then: that costs nothing, and their meaning doesn't
depend on their order. A wanted UID that occurs twice until then with different values makes the Data Set unreadable,
because readers would disagree about whose it is; of other elements the first counts. Whether VRs are explicit is
detected in the first element rather than taken from the Transfer Syntax: some senders announce one encoding and use the
other, and most readers cope with that. What the widespread toolkits read over, such as a delimiter with a length,
doesn't cost an instance. But an element that belongs to a command, to File Meta Information or to a DICOMDIR makes the
Data Set unreadable: readers would take another transfer syntax from it. A lenient scan, for a Data Set that is kept
whatever it is, goes on behind such an element or in the other byte order, because the UIDs that follow can still be
compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, NamedTuple

from dicomd.store.element_encoding import (
    DEFLATED,
    ENCODINGS,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ElementEncoding,
    actual_encoding,
    has_long_form,
    is_swapped,
)
from dicomd.store.errors import DataSetUnreadable
from dicomd.store.head_templates import HeaderSpan, TemplateCache, ValueSpan
from dicomd.tags import MODALITY, PATIENT_ID, SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_DATE
from dicomd.uids import PADDING

if TYPE_CHECKING:
    from zlib import _Decompress as Inflater  # typeshed's name for a type that zlib doesn't export

MAX_VALUE: Final = 80  # a UID has 64 characters; the rest makes it possible to tell that a value is too long
MAX_NESTING: Final = 128  # sequences and items of undefined length; real ones stay below 20
MAX_INFLATED: Final = 16 << 20  # of a deflated head; stops decompression bombs

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM_GROUP: Final = 0xFFFE
_ITEM: Final = 0xE000
_ITEM_DELIMITATION: Final = 0xE00D
_SEQUENCE_DELIMITATION: Final = 0xE0DD
_LOOKAHEAD: Final = 96  # more than the longest header and the longest value that is kept: 12 + 80
_INFLATE_STEP: Final = 1 << 16
_FILE_META_GROUP: Final = b"\2\0"
"""Readers take what begins so for more File Meta Information. A deflated stream may, with an empty block."""
_NOT_IN_DATA_SETS: Final = {  # PS3.5 §7.1
    0x0000: "Data Set holds an element of a Command Set",
    0x0002: "Data Set holds an element of File Meta Information",
    0x0004: "Data Set holds an element of a DICOMDIR",
    0x0006: "Data Set holds an element of group 0006, which is reserved",
}


class WantedElements(NamedTuple):
    """What a scan looks for: ``number`` elements, the four UIDs included, those ``of_group_8`` by their element number.

    With ``patient_id``, it looks for Patient ID besides, but neither continues nor fails because of it.
    """

    of_group_8: tuple[int, ...]
    number: int
    patient_id: bool


_UIDS_OF_GROUP_8: Final = (SOP_CLASS_UID & 0xFFFF, SOP_INSTANCE_UID & 0xFFFF)
_OPTIONAL: Final = frozenset({STUDY_DATE, MODALITY})


def wanted_elements(optional: Collection[int] = (), *, patient_id: bool = False) -> WantedElements:
    """Return the four UIDs, and ``optional`` elements, which may be Study Date and Modality."""
    if not _OPTIONAL.issuperset(optional):
        raise ValueError("only Study Date and Modality can be looked for")
    of_group_8 = (*_UIDS_OF_GROUP_8, *(tag & 0xFFFF for tag in sorted(optional)))
    return WantedElements(of_group_8, len(of_group_8) + 2, patient_id)


UIDS_ONLY: Final = wanted_elements()


class HeadScanner:
    """Scans one Data Set in the given transfer syntax, fragment by fragment.

    ``values`` maps the tags (0xGGGGEEEE) of the wanted elements found so far at the top level to their values, which
    include the padding and are truncated to 80 bytes. ``complete`` means that no more can be found. Both ``feed`` and
    ``finish`` raise ``DataSetUnreadable``.
    """

    def __init__(
        self,
        transfer_syntax_uid: str,
        *,
        wanted: WantedElements = UIDS_ONLY,
        lenient: bool = False,
        templates: TemplateCache | None = None,
    ) -> None:
        """Look for what is `wanted`. `templates` is shared by scans of Data Sets that are probably alike.

        If `lenient`, what makes a Data Set unreadable for others, but not for this scan, becomes its `fault` instead of
        being raised. All scans that share `templates` want the same.
        """
        self.complete = False
        self.fault: DataSetUnreadable | None = None
        self._lenient = lenient
        self.values: dict[int, bytes] = {}
        self.patient_id = b""
        self._wanted = wanted
        self._encoding = ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LITTLE)
        self._encoding_known = False
        self._carry = b""  # the beginning of an element whose rest is still to come
        self._skip = 0  # bytes of a value still to be skipped; only ever without _carry
        self._padding = 0  # how many of the next bytes belong to a wanted value that is kept, so they must be padding
        self._padded = 0  # its tag
        self._beginning = b""  # up to two bytes of a deflated stream
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax_uid in DEFLATED else None
        self._inflated = 0
        # The open sequences and items of undefined length, alternately, each with the encoding of its contents.
        self._nesting: list[ElementEncoding] = []
        self._templates = templates if self._inflater is None else None
        self._header_spans: list[HeaderSpan] | None = None  # of a head that may be worth remembering
        self._value_spans: list[ValueSpan] = []  # bounded by the size of one fragment
        self._must_compare = False  # whether more than the values decides, which a template doesn't know

    def feed(self, fragment: memoryview | bytes) -> bool:
        """Scan the next bytes of the Data Set; return ``complete``."""
        if not self.complete:
            if self._templates is not None:
                self._feed_first(fragment, self._templates)
            elif self._inflater is None:
                self._advance(fragment)
            else:
                self._inflate(fragment)
        return self.complete

    def _feed_first(self, fragment: memoryview | bytes, templates: TemplateCache) -> None:
        """Scan the first fragment, which usually has the whole head, in one step if it is built like an earlier one."""
        self._templates = None
        if (template := templates.template) is not None and (values := template.read(fragment)) is not None:
            self.patient_id = values.pop(PATIENT_ID, b"")
            self.values = values
            self.complete = True
            return
        headers: list[HeaderSpan] = []
        self._header_spans = headers
        self._advance(fragment)
        self._header_spans = None
        if self.complete and not self._must_compare:
            templates.learn(fragment, headers, self._value_spans)

    def finish(self) -> None:
        """End the scan at the end of the Data Set, which must not be inside an element."""
        if self.complete:
            return
        if self._carry or self._skip or self._nesting:
            raise DataSetUnreadable("Data Set ends inside an element")
        if self._inflater is not None and not self._inflater.eof:
            raise DataSetUnreadable("Deflated Data Set is truncated")
        self.complete = True

    def _inflate(self, deflated: memoryview | bytes) -> None:
        if len(self._beginning) < len(_FILE_META_GROUP):
            self._beginning = (self._beginning + bytes(deflated[: len(_FILE_META_GROUP)]))[: len(_FILE_META_GROUP)]
            if self._beginning == _FILE_META_GROUP:
                raise DataSetUnreadable("Deflated Data Set begins like File Meta Information")
        while (inflater := self._inflater) is not None and not inflater.eof:  # what follows the end is padding
            before = inflater.copy()  # some 5 µs; if the stream is damaged, the output of one call would be lost
            try:
                plain = inflater.decompress(deflated, _INFLATE_STEP)
            except zlib.error:
                self._advance(_up_to_the_damage(before, deflated))
                if self.complete:
                    self._inflater = None
                    return
                raise DataSetUnreadable("Data Set is not a deflated stream") from None
            deflated = inflater.unconsumed_tail
            self._inflated += len(plain)
            if plain:
                self._advance(plain)
            if self.complete:
                self._inflater = None
                return
            if self._inflated > MAX_INFLATED:
                raise DataSetUnreadable("Head of the deflated Data Set is too long")
            if len(plain) < _INFLATE_STEP and not deflated:
                return

    def _advance(self, data: memoryview | bytes) -> None:
        end = len(data)
        at = self._skip
        carry = self._carry
        if self._padding:
            self._check_padding(data, 0, self._padding)
        if carry:
            # Complete the divided element in a short copy. Any further elements that fit into the copy are scanned too.
            joined = carry + data[:_LOOKAHEAD]
            at = self._scan(joined, 0, len(joined))
            if self.complete:
                return
            if end <= _LOOKAHEAD:
                self._carry = joined[at:]
                self._skip = max(at - len(joined), 0)
                return
            self._carry = b""
            at -= len(carry)
            if self._padding:
                self._check_padding(data, _LOOKAHEAD, _LOOKAHEAD + self._padding)
        if at < end:
            at = self._scan(data, at, end)
            if self.complete:
                return
        if at < end:
            self._skip = 0
            self._carry = bytes(data[at:])
        else:
            self._skip = at - end

    def _scan(self, data: memoryview | bytes, at: int, end: int) -> int:
        """Scan from ``at``; return the start of the first incomplete element, or a place beyond ``end`` to skip to."""
        while True:
            if self._nesting:
                at = self._scan_nested(data, at, end)
                if self._nesting:
                    return at
            at = self._scan_top_level(data, at, end)
            if not self._nesting:
                return at

    def _scan_top_level(self, data: memoryview | bytes, at: int, end: int) -> int:
        last = end - 8
        if not self._encoding_known and at <= last:
            self._encoding_known = True
            announced = self._encoding
            self._encoding = actual_encoding(announced, data[at + 4], data[at + 5])
            first_group = self._encoding.header(data, at)[0]
            if is_swapped(first_group):
                self._fail(DataSetUnreadable("Data Set has another byte order than its Transfer Syntax"))
                swapped = EXPLICIT_LITTLE if self._encoding is EXPLICIT_BIG else EXPLICIT_BIG
                self._encoding = actual_encoding(swapped, data[at + 4], data[at + 5])
            elif self._encoding is not announced and first_group > 0x20:
                # Neither the announced encoding nor an element of an instance's head: garbage, not another encoding.
                raise DataSetUnreadable("Data Set does not begin with an element")
        encoding = self._encoding
        explicit = encoding.explicit
        header = encoding.header
        short_vrs = encoding.short_vrs
        headers = self._header_spans
        of_group_8, number, want_patient_id = self._wanted
        vr = 0
        while at <= last:
            if explicit:
                group, element, vr, length = header(data, at)
            else:
                group, element, length = header(data, at)
            if group >= 0x20 and (group > 0x20 or element > 0x0E):
                if group == _ITEM_GROUP:
                    raise DataSetUnreadable("Item or delimiter outside of a sequence")
                if SOP_CLASS_UID in self.values and SOP_INSTANCE_UID in self.values:
                    self.complete = True
                    if headers is not None:
                        headers.append((at, at + 8))
                    return at
            value = at + 8
            if explicit and vr not in short_vrs and has_long_form(vr, length):
                if value + 4 > end:
                    return at
                length = encoding.length(data, value)[0]
                value += 4
            if headers is not None:
                headers.append((at, value))
            if length == _UNDEFINED:
                if group in _NOT_IN_DATA_SETS:
                    self._misplaced(group, element)
                self._enter(encoding, vr)
                return value
            if group == 0x08:
                wanted = element in of_group_8
            elif group == 0x20:
                wanted = element in (0x0D, 0x0E)
            elif group == 0x10 and element == 0x20 and want_patient_id:
                kept = value + min(length, MAX_VALUE)
                if kept > end:
                    return at
                self.patient_id = self.patient_id or bytes(data[value:kept])
                if headers is not None:
                    self._value_spans.append((PATIENT_ID, value, kept))
                wanted = False
            elif group in _NOT_IN_DATA_SETS:
                self._misplaced(group, element)
                wanted = False
            else:
                wanted = False
            if wanted:
                kept = value + min(length, MAX_VALUE)
                if kept > end:
                    return at
                tag = group << 16 | element
                text = bytes(data[value:kept])
                if self.values.setdefault(tag, text) != text and tag not in _OPTIONAL:
                    raise DataSetUnreadable("Element occurs twice, and differs", element=tag)
                if headers is not None:
                    self._value_spans.append((tag, value, kept))
                if length > MAX_VALUE and text[-1] in PADDING and tag not in _OPTIONAL:
                    self._must_compare = True
                    self._padded = tag
                    self._check_padding(data, kept, value + length)
                elif len(self.values) == number:
                    self.complete = True
                    return kept
            at = value + length
        return at

    def _misplaced(self, group: int, element: int) -> None:
        self._fail(DataSetUnreadable(_NOT_IN_DATA_SETS[group], element=group << 16 | element))

    def _fail(self, error: DataSetUnreadable) -> None:
        """Raise the error, or note the first one if the scan can go on and is to."""
        if not self._lenient:
            raise error
        self.fault = self.fault or error
        self._must_compare = True  # a head like this one must not be taken for one without a fault

    def _check_padding(self, data: memoryview | bytes, start: int, stop: int) -> None:
        """Require padding from `start` to `stop`, which may be beyond the end of `data`.

        Otherwise readers, who take the whole value, would see another UID than the one that was kept.
        """
        self._padding = max(stop - len(data), 0)
        if bytes(data[start:stop]).strip(PADDING):
            raise DataSetUnreadable("UID is followed by something other than padding", element=self._padded)

    def _scan_nested(self, data: memoryview | bytes, at: int, end: int) -> int:
        nesting = self._nesting
        while nesting and at + 8 <= end:
            encoding = nesting[-1]
            group, element, length = encoding.item(data, at)
            if group == _ITEM_GROUP:
                if self._header_spans is not None:
                    self._header_spans.append((at, at + 8))
                at += 8
                in_sequence = len(nesting) % 2
                if in_sequence and element == _ITEM:
                    if length == _UNDEFINED:
                        nesting.append(encoding)
                    else:
                        at += length
                elif element == (_SEQUENCE_DELIMITATION if in_sequence else _ITEM_DELIMITATION):
                    nesting.pop()  # whatever its length: PS3.5 §7.5.2 says 0, and no value follows another one either
                else:
                    raise DataSetUnreadable("Misplaced item or delimiter")
                continue
            if len(nesting) % 2:
                raise DataSetUnreadable("Sequence holds something other than items")
            value = at + 8
            vr = 0
            if encoding.explicit:
                _, _, vr, length = encoding.header(data, at)
                if vr not in encoding.short_vrs and has_long_form(vr, length):
                    if value + 4 > end:
                        return at
                    length = encoding.length(data, value)[0]
                    value += 4
            if self._header_spans is not None:
                self._header_spans.append((at, value))
            if length == _UNDEFINED:
                self._enter(encoding, vr)
                at = value
            else:
                at = value + length
        return at

    def _enter(self, encoding: ElementEncoding, vr: int) -> None:
        if len(self._nesting) >= MAX_NESTING:
            raise DataSetUnreadable("Sequences are nested too deeply")
        # UN of undefined length holds Implicit VR Little Endian whatever the transfer syntax (PS3.5 §6.2.2).
        self._nesting.append(IMPLICIT_LITTLE if encoding.explicit and vr == encoding.un else encoding)


def _up_to_the_damage(inflater: Inflater, deflated: memoryview | bytes) -> bytes:
    """Inflate up to the damaged byte, so that the result doesn't depend on how the fragments were cut."""
    plain = bytearray()
    for at in range(len(deflated)):
        try:
            plain += inflater.decompress(deflated[at : at + 1])
        except zlib.error:
            break
    return bytes(plain)
