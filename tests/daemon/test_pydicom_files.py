"""pydicom's own test files, with all their oddities: each that can be sent at all is stored unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon.conftest import Connect
from tests.support import senders
from tests.support.comparison import assert_file_meta, assert_stored_as_sent
from tests.support.daemon import Daemon
from tests.support.pydicom_files import SampleFile, sample_files
from tests.support.raw_peer import RawPeer, store_message
from tests.support.relay import Relay

SENDABLE = [file for file in sample_files() if file.instance]


@pytest.fixture(scope="module")
def flat_receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose layout needs no Study or Series Instance UID."""
    with Daemon(tmp_path_factory.mktemp("flat"), {"storage": {"layout": "{SOPInstanceUID}.dcm"}}) as daemon:
        yield daemon


def test_a_file_that_is_not_sent_has_its_reason() -> None:
    left_out = {file.name: file.why_not for file in sample_files() if not file.instance}
    assert all(left_out.values())
    assert len(left_out) < 20
    assert len(SENDABLE) > 150


def test_every_file_arrives_byte_for_byte(flat_receiver: Daemon) -> None:
    """Sent raw, since any library's sender would re-encode some of these Data Sets."""
    flat_receiver.empty()
    for file in SENDABLE:
        assert file.instance
        proposals = [(file.instance.sop_class_uid, [file.instance.transfer_syntax])]
        with RawPeer(flat_receiver.address) as peer:
            peer.associate(proposals)
            assert peer.contexts[1].result == 0, file.name
            peer.send(store_message(file.instance))
            response = peer.read_message()
            assert (file.name, f"{response.status:04X}", response.error_comment) == (file.name, "0000", "")
            peer.release()
    stored = {(f.sop_class_uid, f.sop_instance_uid, f.transfer_syntax, f.data_set) for f in flat_receiver.stored()}
    sent = {
        (i.sop_class_uid, i.sop_instance_uid, i.transfer_syntax, i.data_set)
        for i in (f.instance for f in SENDABLE)
        if i
    }
    assert stored == sent
    assert len(flat_receiver.paths()) == len(sent)
    for stored_file in flat_receiver.stored():
        assert_file_meta(stored_file, calling="RAWPEER", called={"DICOMD"})


@pytest.mark.system
def test_pynetdicoms_storescu_sends_all_of_them(flat_receiver: Daemon) -> None:
    """Files that pydicom can't write as it read them are not sent; that is up to the sender, which reports them."""
    paths = [file.path for file in SENDABLE if file.path.read_bytes()[128:132] == b"DICM"]
    flat_receiver.empty()
    with Relay(flat_receiver.address) as relay:
        done = senders.pynetdicom("storescu", *relay.address, *paths, "-cx")
        talks = relay.conversations()
    sent = sum(len(talk.stores) for talk in talks)
    assert sent > len(paths) * 0.8, done.output
    assert_stored_as_sent(flat_receiver, talks, calling="STORESCU")


@pytest.mark.parametrize(
    "file", [file for file in SENDABLE if not file.has_study_and_series], ids=lambda file: file.path.name
)
def test_a_file_without_study_or_series_is_refused_where_the_layout_needs_them(
    receiver: Daemon, connect: Connect, file: SampleFile
) -> None:
    assert file.instance
    peer = connect()
    peer.associate([(file.instance.sop_class_uid, [file.instance.transfer_syntax])])
    response = peer.store(file.instance)
    assert f"{response.status:04X}" == "C001"
    assert response.offending_elements in ([0x0020000D], [0x0020000E])
    assert 0 < len(response.error_comment) <= 64
    peer.release()
    assert receiver.stored(file.instance.sop_instance_uid) == []
