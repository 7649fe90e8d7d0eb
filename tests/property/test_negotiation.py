"""Compares dicomd's own reading of an A-ASSOCIATE-RQ with pynetdicom's, which takes at least thirty times as long."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pydicom.config
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dicomd.upperlayer.negotiation import AssociateRequest, MalformedRequestError, Negotiator, quiet_decoders
from tests.support import wire
from tests.support.encoding import item
from tests.support.reference_negotiation import Reference, UndecodableError, reference

CT, MR, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
RECEIVER: dict[str, Any] = {
    "sop_classes": [CT, MR],
    "transfer_syntaxes": [JPEG, EXPLICIT, IMPLICIT],
    "max_pdu": 262144,
    "implementation_class_uid": "2.25.1",
    "implementation_version_name": "DICOMD_TEST",
    "asynchronous_operations": 8,
}
FIXED = b"\0\1\0\0" + b"SCP".ljust(16) + b"SCU".ljust(16) + bytes(32)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Silence the libraries, which warn about most of these inputs; restored afterwards for other tests."""
    mode, logger = pydicom.config.settings.reading_validation_mode, logging.getLogger("pynetdicom")
    level = logger.level
    quiet_decoders()
    logger.setLevel(logging.CRITICAL + 1)
    yield
    pydicom.config.settings.reading_validation_mode = mode
    logger.setLevel(level)


def negotiate(variable_items: bytes) -> Reference:
    """The request as dicomd reads it, in the reference's terms."""
    found = Negotiator(**RECEIVER).negotiate(AssociateRequest.from_body(FIXED + variable_items))
    return Reference(
        application_context_name=found.application_context_name,
        contexts={number: (c.abstract_syntax, c.transfer_syntax) for number, c in found.contexts.items()},
        results={number: c.result for number, c in wire.accepted_contexts(FIXED + found.answer).items()},
        max_pdu=found.max_pdu,
        implementation_class_uid=found.implementation_class_uid,
        implementation_version_name=found.implementation_version_name,
        answer=found.answer,
    )


def skipped(variable_items: bytes) -> tuple[str, ...]:
    """What dicomd passes over in the request because it can't be read."""
    return Negotiator(**RECEIVER).negotiate(AssociateRequest.from_body(FIXED + variable_items)).skipped


# -- correct requests, with everything that real requestors add to them --------------------------------------------

padding = st.sampled_from([b"", b"", b"", b"\0", b" ", b"  ", b" \0"])
indents = st.sampled_from([b"", b"", b"", b" "])
LONGEST = 65  # bytes at most of a UID with its padding
abstract_syntaxes = st.sampled_from([CT, MR, VERIFICATION, "1.2.3", "1" * 64]).map(str.encode)
transfer_syntaxes = st.one_of(
    st.sampled_from([IMPLICIT, EXPLICIT, JPEG, "1.2.840.10008.1.2.2", "1.2.3.4", "2" * 64]).map(str.encode),
    st.from_regex(rb"[0-9.]{1,64}", fullmatch=True),
)
reserved = st.sampled_from([0, 0, 0, 1, 0x40, 0xFF])


@st.composite
def contexts(draw: Callable[[Any], Any]) -> bytes:
    """A Presentation Context without its ID."""
    value = bytes((draw(reserved), draw(reserved), draw(reserved)))
    value += item(0x30, (draw(abstract_syntaxes) + draw(padding))[:LONGEST], draw(reserved))
    for uid in draw(st.lists(st.one_of(st.just(b""), transfer_syntaxes), max_size=5)):
        value += item(0x40, (draw(indents) + uid + draw(padding))[:LONGEST] if uid else b"", draw(reserved))
    value += item(0x40, draw(transfer_syntaxes))
    return value


def uid_item(kind: int, rest: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A sub-item that begins with a UID and its length."""
    padded = st.tuples(abstract_syntaxes, padding).map(lambda t: (t[0] + t[1])[:LONGEST])
    return st.tuples(padded, rest).map(lambda t: item(kind, struct.pack(">H", len(t[0])) + t[0] + t[1]))


sub_items = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: item(0x51, struct.pack(">I", n))),
    st.tuples(st.one_of(st.just(b""), transfer_syntaxes), padding).map(lambda t: item(0x52, (t[0] + t[1])[:LONGEST])),
    st.binary(min_size=4, max_size=4).map(lambda value: item(0x53, value)),
    uid_item(0x54, st.sampled_from([b"\0\0", b"\0\1", b"\1\0", b"\1\1"])),
    st.from_regex(r"[A-Za-z0-9_. -]{0,16}", fullmatch=True).map(lambda text: item(0x55, text.encode())),
    uid_item(0x56, st.binary(min_size=1, max_size=6)),
    uid_item(0x57, st.just(struct.pack(">H3sH", 3, b"1.2", 0))),
)
application_contexts = st.sampled_from([b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.1\0", b"1.2.3", b""])


@st.composite
def requests(draw: Callable[[Any], Any]) -> bytes:
    """The variable items of a request, in any order."""
    identifiers = draw(st.lists(st.integers(0, 127).map(lambda n: 2 * n + 1), max_size=8, unique=True))
    items = [item(0x20, bytes((number,)) + draw(contexts())) for number in identifiers]
    items += [item(0x10, name) for name in draw(st.lists(application_contexts, max_size=2))]
    items.append(item(0x50, b"".join(draw(st.lists(sub_items, max_size=6))), draw(reserved)))
    return b"".join(draw(st.permutations(items)))


@given(requests())
@settings(max_examples=150)
def test_every_request_is_answered_as_by_pynetdicom(variable_items: bytes) -> None:
    assert negotiate(variable_items) == reference(variable_items, **RECEIVER)


def _is_stripped_control(byte: int) -> bool:
    """Whether `str.strip` in pynetdicom removes this byte from UIDs like a space, although no sender pads with it."""
    return chr(byte).isspace() and byte != ord(" ")


@given(requests(), st.integers(0, 400), st.integers(0, 255).filter(lambda byte: not _is_stripped_control(byte)))
@settings(max_examples=150)
@example(item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode())), 0, 0x21)
def test_a_request_with_a_wrong_byte_is_refused_or_answered_as_by_pynetdicom(
    variable_items: bytes, at: int, byte: int
) -> None:
    """A request that pynetdicom can't decode may be accepted, because dicomd passes over what it can't read."""
    assume(at < len(variable_items))
    wrong = variable_items[:at] + bytes((byte,)) + variable_items[at + 1 :]
    try:
        expected = reference(wrong, **RECEIVER)
    except UndecodableError:
        return
    try:
        found = negotiate(wrong)
    except MalformedRequestError:
        return
    assume(not skipped(wrong))
    assert found.contexts == expected.contexts
    assert found.answer == expected.answer
