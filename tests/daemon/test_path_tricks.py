"""Path names in every UID and AE Title: no file escapes the store, and each gets its answer (CONTRACT 4, 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import Daemon
from tests.support.encoding import element
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, instance, new_uid
from tests.support.part10 import read_part10
from tests.support.raw_peer import RawPeer, associate_rq

TARGET = Path("/tmp/dicomd-path-trick")
"""The targets of the tricks, which must never exist."""

TRICKS = {
    "a bare ..": b"..",
    "a bare .": b".",
    "a way up": b"../" * 12 + bytes(TARGET)[1:],
    "a way up and back": b"1.2/../3",
    "an absolute path": bytes(TARGET),
    "a bare /": b"/",
    "a backslash": b"..\\3",
    "the store's own folder": b".dicomd",
    "a NUL inside": b"1.2\x003",
    "a NUL before a way up": b"1.2\0/../../3",
    "a line feed": b"1.2\n3",
    "65 characters": b"1." + b"2" * 63,
    "300 characters": b"1." + b"2" * 298,
    "not ASCII": b"1.2.\xe9",
    "another script's digits": "\N{ARABIC-INDIC DIGIT ONE}.2".encode(),
}


@dataclass(frozen=True)
class Place:
    """An element that carries a UID: its tag (group 0: in the Command Set), and the status for an invalid UID."""

    name: str
    tag: int
    status: str


PLACES = [
    Place("Affected SOP Class UID", 0x00000002, "0212"),
    Place("Affected SOP Instance UID", 0x00001000, "0117"),
    Place("SOP Class UID", 0x00080016, "A900"),
    Place("SOP Instance UID", 0x00080018, "A900"),
    Place("Study Instance UID", 0x0020000D, "C001"),
    Place("Series Instance UID", 0x0020000E, "C001"),
]


def padded(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def instance_with(values: dict[int, bytes]) -> Instance:
    """An instance with these values in its Data Set, some of which no library would write."""
    uid = new_uid()
    usual = {0x00080016: CT_IMAGE_STORAGE, 0x00080018: uid, 0x0020000D: f"{uid}.1"[-64:], 0x0020000E: f"{uid}.2"[-64:]}
    encoded = {tag: text.encode() for tag, text in usual.items()} | {tag: v for tag, v in values.items() if tag >> 16}
    data_set = b"".join(element(tag, "UI", padded(value)) for tag, value in encoded.items())
    return Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, data_set + element(0x7FE00010, "OW", b"\1\2\3\4"))


def tree(daemon: Daemon) -> set[Path]:
    """Everything in and beside the store, except the contents of .dicomd."""
    own = daemon.root / ".dicomd"
    return {path for path in daemon.root.parent.rglob("*") if not path.is_relative_to(own)}


def goes_on(daemon: Daemon, peer: RawPeer, before: set[Path]) -> None:
    """The next instance is stored in its place, and nothing else has been created."""
    daemon.wait_no_temporary_files()
    assert tree(daemon) == before
    one = instance()
    assert peer.store(one, message_id=2).status == 0
    peer.release()
    (file,) = (path for path in tree(daemon) - before if path.is_file())
    assert tree(daemon) - before <= {file, file.parent, file.parent.parent}
    assert file.relative_to(daemon.root).parts == (
        f"{one.sop_instance_uid}.1"[-64:],
        f"{one.sop_instance_uid}.2"[-64:],
        f"{one.sop_instance_uid}.dcm",
    )
    assert read_part10(file).data_set == one.data_set
    assert not TARGET.exists()


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_in_a_uid(receiver: Daemon, connect: Connect, place: Place, trick: bytes) -> None:
    before = tree(receiver)
    peer = connect()
    peer.associate()
    in_command: dict[int, bytes | None] = {} if place.tag >> 16 else {place.tag: padded(trick)}
    answer = peer.store(instance_with({place.tag: trick}), changes=in_command)
    assert (f"{answer.status:04X}", answer.offending_elements) == (place.status, [place.tag])
    goes_on(receiver, peer, before)


def test_64_characters_are_a_uid_everywhere(receiver: Daemon, connect: Connect) -> None:
    uid, study, series = (new_uid().ljust(64, digit) for digit in "123")
    values = {0x00080018: uid, 0x0020000D: study, 0x0020000E: series}
    sent = instance_with({tag: value.encode() for tag, value in values.items()})
    peer = connect()
    peer.associate()
    assert peer.store(sent, changes={wire.AFFECTED_SOP_INSTANCE_UID: uid.encode()}).status == 0
    peer.release()
    assert receiver.stored(uid)[0].path == receiver.root / study / series / f"{uid}.dcm"


TITLES = {
    "a bare ..": (b"..", True),
    "a way up": (b"../../../../tmp/", True),
    "an absolute path": (bytes(TARGET)[:16], True),
    "a slash": (b"A/B", True),
    "16 characters": (b"1.2.840.10008.1.", True),
    "a backslash": (b"..\\..", False),
    "a NUL inside": (b"A\0/B", False),
    "a line feed": (b"A\nB", False),
    "not ASCII": (b"\xe9\xff", False),
    "nothing": (b"", False),
}
"""AE Titles, each with whether VR AE allows it (PS3.5 §6.2)."""


UNSAFE = frozenset(b"/\\\0\n\xe9\xff")
"""The bytes of these titles that a name must not have; a dot must not be the first."""


def request_with(*, called: bytes = b"DICOMD", calling: bytes = b"RAWPEER") -> bytes:
    """An A-ASSOCIATE-RQ with these fields, which can't be longer than 16 bytes."""
    request = bytearray(associate_rq())
    request[10:26], request[26:42] = called.ljust(16), calling.ljust(16)
    return bytes(request)


@pytest.mark.parametrize(("title", "valid"), TITLES.values(), ids=TITLES.keys())
def test_in_a_calling_ae_title(receiver: Daemon, connect: Connect, title: bytes, valid: bool) -> None:
    """A valid title is written to the File Meta Information and nowhere else; an invalid one is rejected."""
    before = tree(receiver)
    peer = connect()
    peer.send(request_with(calling=title))
    if valid:
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
        goes_on(receiver, peer, before)
    else:
        assert peer.read_rejection() == (1, 1, 3)
        assert tree(receiver) == before


@pytest.mark.parametrize(("title", "valid"), TITLES.values(), ids=TITLES.keys())
def test_in_a_called_ae_title(receiver: Daemon, connect: Connect, title: bytes, valid: bool) -> None:
    """If any title is accepted, invalid ones are too."""
    del valid
    before = tree(receiver)
    peer = connect()
    peer.send(request_with(called=title))
    assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
    goes_on(receiver, peer, before)


@pytest.fixture(scope="module")
def receiver_by_titles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    layout = "{CalledAETitle}/{CallingAETitle}/{Modality}@{StudyDate}/{SOPInstanceUID}.dcm"
    with Daemon(tmp_path_factory.mktemp("by-titles"), {"storage": {"layout": layout}}) as daemon:
        yield daemon


@pytest.mark.parametrize(("title", "valid"), TITLES.values(), ids=TITLES.keys())
def test_in_ae_titles_that_paths_are_made_of(
    receiver_by_titles: Daemon, connect: Connect, title: bytes, valid: bool
) -> None:
    """Each title is one folder, whatever is in it, and no two have the same."""
    daemon = receiver_by_titles
    before = tree(daemon)
    peer = connect(daemon)
    peer.send(request_with(called=title, calling=title if valid else b"RAWPEER"))
    assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
    one = instance()
    assert peer.store(one).status == 0
    peer.release()
    (file,) = (path for path in tree(daemon) - before if path.is_file())
    called, calling, folder, name = file.relative_to(daemon.root).parts
    assert called == ("".join(f"%{b:02X}" if b in UNSAFE else chr(b) for b in title).replace("..", "%2E.", 1) or "none")
    assert calling == (called if valid else "RAWPEER")
    assert (folder, name) == ("CT@20240229", f"{one.sop_instance_uid}.dcm")
    assert read_part10(file).data_set == one.data_set
    assert not TARGET.exists()


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
@pytest.mark.parametrize("tag", [0x00080020, 0x00080060], ids=["Study Date", "Modality"])
def test_in_elements_that_paths_are_made_of(
    receiver_by_titles: Daemon, connect: Connect, tag: int, trick: bytes
) -> None:
    daemon = receiver_by_titles
    before = tree(daemon)
    peer = connect(daemon)
    peer.associate()
    sent = instance_with({})
    at = sent.data_set.index(b"\x20\0\x0d\0UI")
    encoded = element(tag, "DA" if tag == 0x00080020 else "CS", padded(trick))
    assert peer.store(replace(sent, data_set=sent.data_set[:at] + encoded + sent.data_set[at:])).status == 0
    peer.release()
    (file,) = (path for path in tree(daemon) - before if path.is_file())
    assert file.relative_to(daemon.root).parts == ("DICOMD", "RAWPEER", "none@none", f"{sent.sop_instance_uid}.dcm")
    assert not TARGET.exists()


def test_in_a_called_ae_title_where_some_are_configured(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(dicomd={"ae_titles": ["DICOMD"]})
    before = tree(daemon)
    for title, _ in TITLES.values():
        peer = connect(daemon)
        peer.send(request_with(called=title))
        assert peer.read_rejection() == (1, 1, 7)
        peer.sock.close()
    assert tree(daemon) == before
