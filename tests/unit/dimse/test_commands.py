"""Command Sets that are encoded and decoded by pynetdicom on the other side."""

import struct
from io import BytesIO

import pytest
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dsutils import decode

from dicomd.dimse.commands import (
    SUCCESS,
    CommandField,
    CommandSetError,
    CommandSetParser,
    Element,
    Response,
    encode_response,
    parse_command_set,
)
from dicomd.statuses import Status
from dicomd.uids import uid_from_value
from tests.support.encoding import command_element, us

STORE = (
    command_element(0x0002, b"1.2.840.10008.5.1.4.1.1.2\0")
    + command_element(0x0100, us(1))
    + command_element(0x0110, us(7))
    + command_element(0x0700, us(0))
    + command_element(0x0800, us(1))
    + command_element(0x1000, b"1.2.3\0")
)


def test_a_request_is_parsed_with_and_without_its_group_length() -> None:
    for data in (STORE, command_element(0, struct.pack("<I", len(STORE))) + STORE):
        request = parse_command_set(data)
        assert (request.command_field, request.message_id, request.has_data_set) == (CommandField.C_STORE_RQ, 7, True)
        assert request.value(Element.AFFECTED_SOP_INSTANCE_UID) == b"1.2.3\0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        STORE[:-1],
        STORE + b"\0\0\2",
        STORE + command_element(0x0002, b"1.2", group=8),
        STORE + command_element(0x0110, us(8)),
        STORE.replace(command_element(0x0110, us(7)), b""),
        STORE.replace(command_element(0x0110, us(7)), command_element(0x0110, b"\7")),
        STORE.replace(command_element(0x0100, us(1)), b""),
        STORE.replace(command_element(0x0800, us(1)), b""),
        struct.pack("<HHI", 0, 2, 0xFFFFFFFF) + b"1.2",
    ],
)
def test_what_cannot_be_answered_is_an_error(data: bytes) -> None:
    with pytest.raises(CommandSetError):
        parse_command_set(data)


COUNTED = command_element(0, struct.pack("<I", len(STORE))) + STORE


@pytest.mark.parametrize(
    "behind", [b"\0\0", bytes(8), bytes(40), command_element(0x0010, b"ACME", group=9), command_element(0x0002, b"1.2")]
)
def test_what_is_behind_the_stated_end_of_the_group_is_passed_over(behind: bytes) -> None:
    """As DCMTK does, for one request like for the next that resembles it."""
    assert parse_command_set(COUNTED + behind) == parse_command_set(COUNTED)
    parser = CommandSetParser()
    for number in (7, 8):
        sent = COUNTED.replace(command_element(0x0110, us(7)), command_element(0x0110, us(number))) + behind
        assert parser.parse(sent).message_id == number


@pytest.mark.parametrize("stated", [0, 4, 34, len(STORE) - 14, len(STORE) + 8])
def test_a_wrong_group_length_costs_no_element(stated: int) -> None:
    parsed = parse_command_set(command_element(0, struct.pack("<I", stated)) + STORE)
    assert parsed.elements == {0: struct.pack("<I", stated)} | parse_command_set(STORE).elements


def test_a_cancel_request_comes_again_with_a_message_id_that_is_none() -> None:
    """A C-CANCEL has no Message ID of its own: (0000,0110) is ignored, and not taken for a request's Message ID."""
    cancel = (
        command_element(0x0100, us(0x0FFF))
        + command_element(0x0110, b"")
        + command_element(0x0120, us(1))
        + command_element(0x0800, us(0x0101))
        + command_element(0x1000, b"1.2\0")
    )
    parser = CommandSetParser()
    assert parser.parse(cancel) == parser.parse(cancel) == parse_command_set(cancel)


def test_the_response_is_what_pynetdicom_reads() -> None:
    request = parse_command_set(STORE)
    sent = encode_response(request, Response(Status.DATA_SET_MISMATCH, "Something differs", (0x00080018,)))
    assert len(sent) % 2 == 0
    data_set = decode(BytesIO(sent), True, True)
    message = C_STORE_RSP()
    assert data_set.CommandGroupLength == len(sent) - 12
    assert data_set.CommandField == 0x8001
    assert data_set.MessageIDBeingRespondedTo == 7
    assert data_set.CommandDataSetType == 0x0101
    assert data_set.Status == 0xA900
    assert data_set.OffendingElement == 0x00080018
    assert data_set.ErrorComment == "Something differs"
    assert data_set.AffectedSOPInstanceUID == "1.2.3"
    assert data_set.AffectedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert {e.tag for e in data_set} <= {e.tag for e in message.command_set}


def test_a_comment_is_cut_at_64_ascii_characters() -> None:
    sent = encode_response(parse_command_set(STORE), Response(Status.INTERNAL_ERROR, "ü" * 100))
    assert decode(BytesIO(sent), True, True).ErrorComment == "?" * 64


def test_success_has_nothing_to_add() -> None:
    data_set = decode(BytesIO(encode_response(parse_command_set(STORE), SUCCESS)), True, True)
    assert "ErrorComment" not in data_set
    assert "OffendingElement" not in data_set


@pytest.mark.parametrize(
    ("value", "uid"),
    [
        (b"1.2.3", "1.2.3"),
        (b"1.2.3\0", "1.2.3"),
        (b"1.2.3 ", "1.2.3"),
        (b"1.02.3", "1.02.3"),
        (b"1" * 64, "1" * 64),
        (b"1" * 65, None),
        (b"", None),
        (b"\0", None),
        (b".", None),
        (b"..", None),
        (b"1..2", None),
        (b"1.2.", None),
        (b".1.2", None),
        (b"../1.2", None),
        (b"1.2/3", None),
        (b"1.2\0.3", None),
        (b"1.2\n", None),
        (b"1.2\\3", None),
        ("1.2.\u0663".encode(), None),
    ],
)
def test_only_digits_and_dots_are_a_uid(value: bytes, uid: str | None) -> None:
    assert uid_from_value(value) == uid
