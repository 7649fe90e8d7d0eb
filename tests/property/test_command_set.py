"""Parsing any bytes as a Command Set or an A-ASSOCIATE-RQ ends in a result or in the parser's own error."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from dicomd.dimse.commands import (
    SUCCESS,
    CommandSet,
    CommandSetError,
    CommandSetParser,
    encode_response,
    parse_command_set,
)
from dicomd.upperlayer.negotiation import AssociateRequest, MalformedRequestError, Negotiator, associate_ac
from tests.support.encoding import command_element
from tests.support.encoding import item as encoded_item

elements = st.lists(
    st.tuples(st.sampled_from([0, 2, 3, 0x100, 0x110, 0x120, 0x800, 0x900, 0x1000, 0x5010]), st.binary(max_size=70)),
    max_size=10,
).map(lambda values: b"".join(command_element(e, v) for e, v in values))


@given(st.one_of(st.binary(max_size=400), elements))
def test_a_command_set_parses_or_fails_cleanly(data: bytes) -> None:
    with contextlib.suppress(CommandSetError):
        request = parse_command_set(data)
        again = parse_command_set(encode_response(request, SUCCESS))
        assert again.is_response


c_store_rqs = st.builds(
    lambda uid, message_id, priority, behind: b"".join(
        command_element(e, v)
        for e, v in (
            *((2, b"1.2.840\0"), (0x100, b"\1\0"), (0x110, message_id), (0x700, priority), (0x800, b"\1\0")),
            *((0x1000, uid), *behind),
        )
    ),
    st.sampled_from([b"1.2.3.4\0", b"1.2.3.5\0", b"1.2.3.10", b"1.2.3.4.", b""]),
    st.binary(min_size=2, max_size=2),
    st.sampled_from([b"\0\0", b"\1\0"]),
    st.sampled_from([[], [(0x1030, b"MOVER ")], [(0x1030, b"OTHER ")]]),
)


def parsed(data: bytes, parser: CommandSetParser | None = None) -> CommandSet | str:
    try:
        return parse_command_set(data) if parser is None else parser.parse(data)
    except CommandSetError as error:
        return str(error)


@given(st.lists(st.one_of(c_store_rqs, c_store_rqs, elements, st.binary(max_size=100)), max_size=8), st.data())
def test_a_command_set_compared_with_the_last_is_the_one_that_was_sent(sent: list[bytes], data: st.DataObject) -> None:
    parser = CommandSetParser()
    for original in sent:
        command_set = bytearray(original)
        if command_set and data.draw(st.booleans()):  # replace one byte
            command_set[data.draw(st.integers(0, len(command_set) - 1))] = data.draw(st.integers(0, 255))
        assert parsed(bytes(command_set), parser) == parsed(bytes(command_set))


item: st.SearchStrategy[bytes] = st.deferred(
    lambda: st.tuples(
        st.sampled_from([0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x99]),
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"]),
            st.lists(item, max_size=4).map(b"".join),
            st.lists(item, max_size=3).map(lambda parts: b"\1\0\0\0" + b"".join(parts)),
        ),
    ).map(lambda t: encoded_item(*t))
)
NEGOTIATOR = Negotiator(
    sop_classes=None,
    transfer_syntaxes=["1.2.840.10008.1.2"],
    max_pdu=16384,
    implementation_class_uid="2.25.1",
    implementation_version_name="TEST",
)


@given(
    st.binary(min_size=68, max_size=68), st.one_of(st.binary(max_size=300), st.lists(item, max_size=6).map(b"".join))
)
def test_an_association_request_is_negotiated_or_malformed(fixed: bytes, items: bytes) -> None:
    request = AssociateRequest.from_body(fixed + items)
    with contextlib.suppress(MalformedRequestError):
        negotiated = NEGOTIATOR.negotiate(request)
        assert len(associate_ac(request, negotiated)) == 74 + len(negotiated.answer)
