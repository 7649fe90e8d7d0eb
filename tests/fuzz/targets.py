"""One fuzz target per parser: accepts any bytes, and fails by an assertion or an undocumented exception.

The targets check these invariants: a parser raises only its own exception; its result doesn't depend on how the bytes
were cut; its answers can be read by others; the memory it holds is bounded. The fuzzer that calls them limits time and
memory.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import chain
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

import pydicom.config

from dicomd.config import ConfigError, to_toml
from dicomd.dimse.commands import SUCCESS, CommandSetError, encode_response, parse_command_set
from dicomd.monitoring.accept import accepts_gzip, choices, prefers_openmetrics
from dicomd.monitoring.hosts import is_shown
from dicomd.net.proxy import HEAD, SIGNATURE, ProxyHeaderError, announced, peer_address
from dicomd.services.operations import PresentationContext, Services, Verification
from dicomd.services.storage import StorageService
from dicomd.statuses import Status
from dicomd.store.errors import DataSetUnreadable, StoreUnavailable
from dicomd.store.head import MAX_VALUE, HeadScanner, wanted_elements
from dicomd.store.head_templates import TemplateCache
from dicomd.store.layout import Layout
from dicomd.store.types import InstanceIdentity, InstanceWriter
from dicomd.store.whole import CUT_OFF, DAMAGED_STREAM, NO_ELEMENT, damage
from dicomd.uids import recurring_uid_from_value, uid_from_value
from dicomd.upperlayer.acceptor import RECEIVED, AcceptorStateMachine
from dicomd.upperlayer.negotiation import (
    AssociateRequest,
    MalformedRequestError,
    Negotiator,
    associate_ac,
    quiet_decoders,
)
from dicomd.upperlayer.reader import (
    MAX_ASSOCIATE_RQ,
    P_DATA_STARTED,
    PDU,
    SMALLEST_SPACE,
    Fragment,
    PDUError,
    PDUReader,
)
from tests.support import wire
from tests.support.configuration import parse_config
from tests.support.reading import fed, joined

_PIECES: Final = (1, 2, 3, 7, 8, 50, 500)
_MAX_PDU: Final = 20_000
_CAPACITY: Final = SMALLEST_SPACE + 64
_SYNTAXES: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_LAYOUT: Final = Layout("{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm")
_CT: Final = "1.2.840.10008.5.1.4.1.1.2"


class _Said(logging.Handler):
    """Collects what a library logs about a peer's bytes, which must be nothing: dicomd writes its own lines."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.name)


_SAID: Final = _Said()
_LIBRARY: Final = logging.getLogger("pynetdicom")
_LIBRARY.addHandler(_SAID)


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Configure the decoders' logging as in the daemon; restore it afterwards for tests in the same process."""
    level, mode = _LIBRARY.level, pydicom.config.settings.reading_validation_mode
    quiet_decoders()
    _SAID.records.clear()
    try:
        yield
    finally:
        _LIBRARY.setLevel(level)
        pydicom.config.settings.reading_validation_mode = mode


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """The data, cut in one of 256 ways: seed 0 leaves it whole, 1 makes single bytes."""
    if seed == 1:
        yield from (data[at : at + 1] for at in range(len(data)))
        return
    at = 0
    while at < len(data):
        seed = seed * 73 % 257  # 257 is prime, so that every start but 0 walks through all numbers
        end = at + _PIECES[seed % len(_PIECES)] if seed else len(data)
        yield data[at:end]
        at = end


# -- upper layer ---------------------------------------------------------------------------------------------------


def pdu_reader(data: bytes) -> None:
    """The first byte determines how the rest is cut."""
    if not data:
        return
    stream = data[1:]
    assert _events(pieces(stream, data[0])) == _events(pieces(stream, 0))
    assert _data(pieces(stream, data[0]), expected=True) == _data(pieces(stream, 0), expected=False)


def _events(chunks: Iterator[bytes]) -> list[object]:
    """The reader's events, and the states to which they lead the state table."""
    reader, machine = PDUReader(memoryview(bytearray(_CAPACITY)), max_pdu=_MAX_PDU), AcceptorStateMachine()

    def led(events: Iterator[PDU | Fragment | PDUError]) -> Iterator[object]:
        for event in events:
            if isinstance(event, PDU):
                assert len(event.body) <= MAX_ASSOCIATE_RQ
                yield event, machine.happened(RECEIVED[event.pdu_type]), machine.state
            else:
                yield (event.reason, str(event)) if isinstance(event, PDUError) else event

    return joined(led(_read(reader, chunks)))


def _data(chunks: Iterator[bytes], *, expected: bool) -> list[object]:
    """The reader's events without the beginnings of P-DATA-TF, which are not reported once data is expected."""
    reader = PDUReader(memoryview(bytearray(_CAPACITY)), max_pdu=_MAX_PDU)
    if expected:
        reader.expect_data()
    return joined(
        (event.reason, str(event)) if isinstance(event, PDUError) else event
        for event in _read(reader, chunks)
        if event != P_DATA_STARTED
    )


def _read(reader: PDUReader, chunks: Iterator[bytes]) -> Iterator[PDU | Fragment | PDUError]:
    # Complete a PDV that is truncated by the end, because how much of it has been reported depends on the cuts.
    rest = iter(lambda: bytes(min(max(0, reader.pdv_left - reader.unread), _CAPACITY)), b"")
    return fed(reader, chain(chunks, rest))


_NEGOTIATOR: Final = Negotiator(
    sop_classes=None,
    transfer_syntaxes=["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"],
    max_pdu=16384,
    implementation_class_uid="2.25.1",
    implementation_version_name="FUZZ",
)


def negotiation(data: bytes) -> None:
    """The body of an A-ASSOCIATE-RQ."""
    with _quiet_decoders():
        _negotiate(data)
    assert not _SAID.records


def _negotiate(data: bytes) -> None:
    try:
        request = AssociateRequest.from_body(data)
        negotiated = _NEGOTIATOR.negotiate(request)
    except MalformedRequestError:
        return
    assert _NEGOTIATOR.negotiate(request) == negotiated, "the cached answer differs"
    answer = associate_ac(request, negotiated)
    (pdu,) = wire.pdus(answer)
    results = wire.accepted_contexts(pdu.body)
    assert {i for i, result in results.items() if result.result == 0} == negotiated.contexts.keys()
    assert 0x51 in wire.user_information(pdu.body)
    assert 0x59 not in wire.user_information(pdu.body)


# -- load balancers------------------------------------------------------------------------------------------------


def proxy_header(data: bytes) -> None:
    """A new connection's bytes in place of a PROXY header, which must yield an address, none, or an error."""
    head = data[:HEAD]
    try:
        length = announced(head)
        address = peer_address(head, data[HEAD : HEAD + length])
    except ProxyHeaderError:
        return
    assert head.startswith(SIGNATURE)
    assert length < 1 << 16
    if address is not None:
        assert str(ip_address(address)) == address
        assert getattr(ip_address(address), "ipv4_mapped", None) is None, "an IPv4 peer has two addresses"


# -- messages ------------------------------------------------------------------------------------------------------


class _NoStore:
    """Accepts nothing, so that only the checks of a request are exercised."""

    def open(self, identity: InstanceIdentity) -> InstanceWriter:
        assert uid_from_value(identity.sop_instance_uid.encode()) == identity.sop_instance_uid
        raise StoreUnavailable("takes nothing", operation="open")


_SERVICES: Final = Services(verification=Verification(), storage=StorageService(_NoStore()))
_CONTEXT: Final = PresentationContext(_CT, _SYNTAXES[1], "FUZZ", "DICOMD")


def command_set(data: bytes) -> None:
    """A complete Command Set, and the operation that it begins."""
    try:
        request = parse_command_set(data)
    except CommandSetError:
        return
    answer = encode_response(request, SUCCESS)
    assert parse_command_set(answer).is_response
    assert len(answer) < 512
    operation = _SERVICES.begin(request, _CONTEXT)
    operation.write([memoryview(b"\0\0")], 2)
    response = operation.finish()
    operation.release()
    if response is not None:
        assert response.status is not Status.INTERNAL_ERROR
        assert len(response.comment) <= 64
        wire.command_set(encode_response(request, response))


def uid(data: bytes) -> None:
    """The value of a UID element: a path made from a valid one is inside the store and in the layout's own form."""
    strict, lenient = uid_from_value(data), recurring_uid_from_value(data)
    for text in {strict, lenient} - {None}:
        assert text is not None
        place = _LAYOUT.place(text, text, text)
        path = PurePosixPath("/root", place.directory, place.name)
        assert path.parts == ("/", "root", text, text, f"{text}.dcm")
        assert len(text) <= 64
        assert not set(text) - set("0123456789.")
        assert not text.startswith(".")


# -- data sets -----------------------------------------------------------------------------------------------------


def data_set_head(data: bytes) -> None:
    """The first byte chooses the transfer syntax, the second how the Data Set is cut."""
    if len(data) < 2:
        return
    syntax, encoded = _SYNTAXES[data[0] % 3], data[2:]
    found = _scanned(syntax, pieces(encoded, data[1]))
    assert found == _scanned(syntax, pieces(encoded, 0))
    assert found == _scanned(syntax, pieces(encoded, data[1]), lenient=True)
    assert found == _scanned(syntax, pieces(encoded, 0), lenient=True)


def deflated_head(data: bytes) -> None:
    """As `data_set_head`; the first byte determines whether the data is already deflated or is deflated here."""
    if len(data) < 2:
        return
    encoded = data[2:]
    if data[0] % 2:
        compressor = zlib.compressobj(data[0] % 10, wbits=-zlib.MAX_WBITS)
        encoded = compressor.compress(encoded) + compressor.flush()
    assert _scanned(_DEFLATED, pieces(encoded, data[1])) == _scanned(_DEFLATED, pieces(encoded, 0))


def _scanned(syntax: str, chunks: Iterator[bytes], *, lenient: bool = False) -> object:
    """The result of a scan, which must be the same again with the templates remembered from earlier scans.

    That of a lenient scan is the first thing for which it is refused, though the scan goes on.
    """
    pieces, memory = list(chunks), TemplateCache()
    first, *others = (_scanned_once(syntax, pieces, memory, lenient=lenient) for _ in range(3))
    assert others == [first, first]
    return first


def _scanned_once(syntax: str, chunks: list[bytes], memory: TemplateCache, *, lenient: bool) -> object:
    scanner = HeadScanner(syntax, wanted=wanted_elements(patient_id=True), lenient=lenient, templates=memory)
    try:
        for chunk in chunks:
            if scanner.feed(memoryview(chunk)):
                break
        scanner.finish()
    except DataSetUnreadable as error:
        fault = scanner.fault or error
        return fault.message, fault.element
    assert scanner.complete
    if scanner.fault is not None:
        return scanner.fault.message, scanner.fault.element
    assert all(len(value) <= MAX_VALUE for value in [*scanner.values.values(), scanner.patient_id])
    return scanner.values, scanner.patient_id


def whole_data_set(data: bytes) -> None:
    """The first byte chooses the transfer syntax; the rest is a stored Data Set behind some other bytes."""
    if not data:
        return
    syntax, before = (*_SYNTAXES, _DEFLATED)[data[0] % 4], 3
    fd = os.memfd_create("file")
    try:
        os.write(fd, bytes(before) + data[1:])
        assert damage(fd, before, syntax) in ("", CUT_OFF, NO_ELEMENT, DAMAGED_STREAM)
    finally:
        os.close(fd)


# -- HTTP ----------------------------------------------------------------------------------------------------------


def http_headers(data: bytes) -> None:
    """A header's value, as that of Host and of Accept."""
    text = data.decode("latin-1")  # as http.server does
    shown = is_shown([text], ("dicomd.example.org",))
    assert is_shown([text], ("dicomd.example.org", text.lower())) >= shown
    if shown:
        host = (urlsplit(f"http://{text.strip()}/").hostname or "").removesuffix(".")
        assert host in ("localhost", "dicomd.example.org") or ip_address(host)
    assert len(list(choices(text))) <= 100
    assert all(0 <= choice.weight <= 1 for choice in choices(text))
    assert not prefers_openmetrics(text) or "application/openmetrics-text" in text.lower()
    assert not accepts_gzip(text) or "gzip" in text.lower()


# -- configuration -------------------------------------------------------------------------------------------------


def configuration(data: bytes) -> None:
    """The text of a configuration file; bytes that are not UTF-8 are replaced."""
    try:
        config = parse_config(data.decode("utf-8", "replace"))
    except ConfigError as error:
        problems = error.problems
    else:
        assert parse_config(to_toml(config)) == config
        return
    assert problems
    assert all(str(problem).isprintable() for problem in problems)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        proxy_header,
        pdu_reader,
        negotiation,
        command_set,
        uid,
        data_set_head,
        deflated_head,
        whole_data_set,
        configuration,
        http_headers,
    )
}
