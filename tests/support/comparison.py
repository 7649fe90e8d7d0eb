"""Compares stored files with what was sent over the wire.

The wire decides, since a sender may convert its files as it likes: a stored file must contain, byte for byte, what the
sender put into its PDVs in the negotiated transfer syntax, and no other files may exist.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.support.daemon import Daemon
from tests.support.part10 import StoredFile
from tests.support.wire import C_STORE_RQ, Conversation

_FILE_META = {
    0x00020000: "File Meta Information Group Length",
    0x00020001: "File Meta Information Version",
    0x00020002: "Media Storage SOP Class UID",
    0x00020003: "Media Storage SOP Instance UID",
    0x00020010: "Transfer Syntax UID",
    0x00020012: "Implementation Class UID",
    0x00020013: "Implementation Version Name",
    0x00020016: "Source Application Entity Title",
    0x00020018: "Receiving Application Entity Title",
}


def assert_stored_as_sent(
    daemon: Daemon, conversations: list[Conversation], *, calling: str, refusals: Collection[int] = ()
) -> list[StoredFile]:
    """Every C-STORE of the conversations was answered with 0x0000 and stored, and nothing else was; return the files.

    Identical instances that were sent more than once must be stored once. `refusals` are the statuses with which some
    may have been answered instead: those must not be stored.
    """
    sent = set()
    for talk in conversations:
        answered = [response.status for response in talk.responses]
        assert len(answered) == len(talk.requests)
        assert set(answered) <= {0x0000, *refusals}
        sent |= {
            (message.sop_class_uid, message.sop_instance_uid, talk.transfer_syntax(message), message.data_set)
            for message, status in zip(talk.requests, answered, strict=True)
            if message.command_field == C_STORE_RQ and status == 0x0000
        }
    files = daemon.stored()
    stored = [(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax, file.data_set) for file in files]
    assert len(stored) == len(set(stored)), "an instance was stored twice"
    described = [{(uid, syntax, len(data or b"")) for _, uid, syntax, data in side} for side in (set(stored), sent)]
    assert described[0] == described[1]
    assert set(stored) == sent, "the stored bytes differ from those sent"
    called = {talk.called_ae_title for talk in conversations if talk.stores}
    for file in files:
        assert_file_meta(file, calling=calling, called=called)
    return files


def assert_file_meta(file: StoredFile, *, calling: str, called: set[str]) -> None:
    """Preamble and File Meta Information are as CONTRACT 4 specifies, with values padded as PS3.5 §6.2 requires."""
    assert file.preamble == bytes(128)
    assert set(file.meta) == set(_FILE_META)
    assert file.meta[0x00020001] == b"\x00\x01"
    assert file.text(0x00020016) == calling
    assert file.text(0x00020018) in called
    assert file.text(0x00020012)
    assert 1 <= len(file.text(0x00020013)) <= 16
    assert all(len(value) % 2 == 0 for value in file.meta.values())
