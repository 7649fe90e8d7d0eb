"""Command Sets and A-ASSOCIATE-RQs of any bytes end in their own error or in a result, never otherwise."""

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from dicomd.dimse.commands import SUCCESS, CommandSetError, encode_response, parse_command_set
from dicomd.upperlayer.negotiation import AssociateRequest, MalformedRequestError, Negotiator, associate_ac

elements = st.lists(
    st.tuples(st.sampled_from([0, 2, 3, 0x100, 0x110, 0x120, 0x800, 0x900, 0x1000, 0x5010]), st.binary(max_size=70)),
    max_size=10,
).map(lambda values: b"".join(struct.pack("<HHI", 0, e, len(v)) + v for e, v in values))


@given(st.one_of(st.binary(max_size=400), elements))
def test_a_command_set_parses_or_fails_cleanly(data: bytes) -> None:
    with contextlib.suppress(CommandSetError):
        request = parse_command_set(data)
        again = parse_command_set(encode_response(request, SUCCESS))
        assert again.is_response


item = st.deferred(
    lambda: st.tuples(
        st.sampled_from([0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x99]),
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"]),
            st.lists(item, max_size=4).map(b"".join),
            st.lists(item, max_size=3).map(lambda parts: b"\1\0\0\0" + b"".join(parts)),
        ),
    ).map(lambda t: struct.pack(">BBH", t[0], 0, len(t[1])) + t[1])
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
