"""The statuses of C-STORE; a refusal leaves no file, and the Association stays usable (PS3.4 §B.2.3)."""

from __future__ import annotations

import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.daemon import START_DEADLINE, WAIT, Daemon
from tests.support.encoding import element, p_data, pdv, ui
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MR_IMAGE_STORAGE,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY_ROOT_FIND,
    Instance,
    data_set,
    encode,
    instance,
    new_uid,
)
from tests.support.raw_peer import RawPeer, associate_rq, c_store_rq, data_set_pdus, request, store_message
from tests.support.waiting import wait_until

MIB = 1024 * 1024


def status(message: wire.Message) -> str:
    return f"{message.status:04X}"


def assert_refused(message: wire.Message, expected: str, *offending: int) -> None:
    """The message has this status, an Error Comment that a log may show, and these Offending Elements."""
    assert status(message) == expected
    comment = message.error_comment
    assert 0 < len(comment) <= 64
    assert comment.isprintable()
    for secret in (*PATIENT_NAME.split("^"), PATIENT_ID, "19700101"):
        assert secret.lower() not in comment.lower()
    assert message.offending_elements == list(offending)


@pytest.fixture
def peer(connect: Connect) -> RawPeer:
    """An open Association: context 1 for CT images, 3 for Verification."""
    peer = connect()
    peer.associate()
    return peer


def encoded_without(*keywords: str, uid: str) -> bytes:
    ds = data_set(uid)
    for keyword in keywords:
        delattr(ds, keyword)
    return encode(ds)


def with_value_of_same_length(encoded: bytes, old: str, new: bytes) -> bytes:
    """The Data Set with one element's value replaced by one that no library would write."""
    padded = ui(old)
    assert encoded.count(padded) == 1
    return encoded.replace(padded, new.ljust(len(padded), b"\0")[: len(padded)])


# -- faults of the Data Set --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """An instance with a fault, and the answer that must follow."""

    name: str
    make: Callable[[], Instance]
    status: str
    offending: tuple[int, ...] = ()


def _made(change: Callable[[str], bytes]) -> Callable[[], Instance]:
    def make() -> Instance:
        uid = new_uid()
        return Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, change(uid))

    return make


def _study(value: bytes) -> Callable[[str], bytes]:
    def change(uid: str) -> bytes:
        ds = data_set(uid)
        return with_value_of_same_length(encode(ds), str(ds.StudyInstanceUID), value)

    return change


BROKEN = [
    Broken("another SOP Instance UID", _made(lambda uid: encode(data_set(new_uid()))), "A900", (0x00080018,)),
    Broken(
        "another SOP Class UID",
        _made(lambda uid: encode(data_set(uid, sop_class_uid=MR_IMAGE_STORAGE))),
        "A900",
        (0x00080016,),
    ),
    Broken("an element without a VR", _made(lambda uid: element(0x00080005, "\x01\x02", b"ISO_IR 100")), "C000"),
    Broken("an end inside the first element", _made(lambda uid: encode(data_set(uid))[:9]), "C000"),
    Broken("an end inside the head", _made(lambda uid: encode(data_set(uid))[:60]), "C000"),
    Broken(
        "a Command Set element",
        _made(lambda uid: element(2, "UI", "1.2") + encode(data_set(uid))),
        "C000",
        (0x00000002,),
    ),
    Broken(
        "a sequence delimiter without a sequence",
        _made(lambda uid: b"\xfe\xff\xdd\xe0\0\0\0\0" + encode(data_set(uid))),
        "C000",
    ),
    Broken(
        "no Study Instance UID", _made(lambda uid: encoded_without("StudyInstanceUID", uid=uid)), "C001", (0x0020000D,)
    ),
    Broken(
        "no Series Instance UID",
        _made(lambda uid: encoded_without("SeriesInstanceUID", uid=uid)),
        "C001",
        (0x0020000E,),
    ),
    Broken(
        "a Study Instance UID that leaves the store", _made(_study(b"../../../../../../tmp/x")), "C001", (0x0020000D,)
    ),
    Broken("an absolute path as Study Instance UID", _made(_study(b"/etc")), "C001", (0x0020000D,)),
    Broken("a dot as Study Instance UID", _made(_study(b".")), "C001", (0x0020000D,)),
    Broken("two dots as Study Instance UID", _made(_study(b"..")), "C001", (0x0020000D,)),
    Broken("an empty Study Instance UID", _made(_study(b"")), "C001", (0x0020000D,)),
    Broken("patient data as Study Instance UID", _made(_study(PATIENT_ID.encode())), "C001", (0x0020000D,)),
    Broken("a NUL inside the Study Instance UID", _made(_study(b"1.2\x003.4")), "C001", (0x0020000D,)),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_data_set_with(receiver: Daemon, peer: RawPeer, broken: Broken) -> None:
    before = receiver.paths()
    refused = broken.make()
    assert_refused(peer.store(refused), broken.status, *broken.offending)
    following = instance()
    assert status(peer.store(following, message_id=2)) == "0000"
    peer.release()
    receiver.wait_no_temporary_files()
    assert len(receiver.stored(following.sop_instance_uid)) == 1
    assert len(receiver.paths()) == len(before) + 1


def test_a_longer_study_uid_than_64_characters_is_refused(receiver: Daemon, peer: RawPeer) -> None:
    uid = new_uid()
    long = element(0x0020000D, "UI", "1." + "2" * 64)
    head = element(0x00080016, "UI", CT_IMAGE_STORAGE) + element(0x00080018, "UI", uid)
    sent = Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, head + long + element(0x0020000E, "UI", "1.2"))
    assert_refused(peer.store(sent), "C001", 0x0020000D)
    peer.release()


@pytest.mark.parametrize(
    "make",
    [
        lambda ds: encode(ds, IMPLICIT_LITTLE),
        lambda ds: encode(ds, EXPLICIT_BIG),
        lambda ds: _deflated(encode(ds)),
    ],
    ids=["implicit", "big endian", "deflated"],
)
@pytest.mark.parametrize("fault", ["", "SOPInstanceUID", "StudyInstanceUID"])
def test_the_head_is_read_in_every_encoding(
    receiver: Daemon, connect: Connect, make: Callable[..., bytes], fault: str, request: pytest.FixtureRequest
) -> None:
    uid = new_uid()
    ds = data_set(uid)
    if fault == "SOPInstanceUID":
        ds.SOPInstanceUID = new_uid()
    elif fault:
        delattr(ds, fault)
    syntax = {"implicit": IMPLICIT_LITTLE, "big endian": EXPLICIT_BIG, "deflated": DEFLATED}[
        next(name for name in ("implicit", "big endian", "deflated") if name in request.node.callspec.id)
    ]
    peer = connect()
    peer.associate([(CT_IMAGE_STORAGE, [syntax])])
    answer = peer.store(Instance(CT_IMAGE_STORAGE, uid, syntax, make(ds)))
    assert status(answer) == {"": "0000", "SOPInstanceUID": "A900", "StudyInstanceUID": "C001"}[fault]
    peer.release()
    assert len(receiver.stored(uid)) == (0 if fault else 1)


def _deflated(encoded: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(encoded) + packer.flush()
    return packed + b"\0" * (len(packed) % 2)


def test_a_deflated_data_set_that_is_none_is_refused(receiver: Daemon, connect: Connect) -> None:
    peer = connect()
    peer.associate([(CT_IMAGE_STORAGE, [DEFLATED])])
    assert_refused(peer.store(Instance(CT_IMAGE_STORAGE, new_uid(), DEFLATED, b"\xff" * 1000)), "C000")
    peer.release()


# -- faults of the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uid",
    [
        b"",
        b"1.2.abc\0",
        b"..",
        b"../../../../tmp/x\0",
        b"/etc/passwd\0",
        b"1..2",
        b".1.2",
        b"1.2.",
        b"1.2/3\0",
        b"1.2\x003",
        b"1.2\n3",
        b"1.2 3\0",
        b"1." + b"2" * 63 + b"\0",
        "1.2.²".encode("latin-1") + b"\0",
        "\N{ARABIC-INDIC DIGIT ONE}.2".encode(),  # which some functions accept as a digit
        PATIENT_ID.encode(),
    ],
    ids=repr,
)
def test_a_sop_instance_uid_that_is_none_is_refused(receiver: Daemon, peer: RawPeer, uid: bytes) -> None:
    before = receiver.paths()
    answer = peer.store(instance(), changes={wire.AFFECTED_SOP_INSTANCE_UID: uid})
    assert_refused(answer, "0117", 0x00001000)
    assert status(peer.store(instance(), message_id=2)) == "0000"
    peer.release()
    assert len(receiver.paths()) == len(before) + 1


def test_no_sop_instance_uid_is_refused(peer: RawPeer) -> None:
    answer = peer.store(instance(), changes={wire.AFFECTED_SOP_INSTANCE_UID: None})
    assert_refused(answer, "0117", 0x00001000)
    assert status(peer.store(instance())) == "0000"
    peer.release()


@pytest.mark.parametrize("pad", [b"", b"\0", b"\0\0", b" ", b"  "], ids=repr)
def test_any_padding_of_a_sop_instance_uid_is_tolerated(receiver: Daemon, peer: RawPeer, pad: bytes) -> None:
    sent = instance()
    value = sent.sop_instance_uid.encode() + pad
    assert status(peer.store(sent, changes={wire.AFFECTED_SOP_INSTANCE_UID: value})) == "0000"
    peer.release()
    assert len(receiver.stored(sent.sop_instance_uid)) == 1


def test_leading_zeros_in_a_uid_are_tolerated(receiver: Daemon, peer: RawPeer) -> None:
    uid = f"1.02.003.{new_uid()}"[:60]
    head = element(0x00080016, "UI", CT_IMAGE_STORAGE) + element(0x00080018, "UI", uid)
    folders = element(0x0020000D, "UI", uid + ".1") + element(0x0020000E, "UI", uid + ".2")
    assert status(peer.store(Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, head + folders))) == "0000"
    peer.release()
    assert receiver.stored(uid)[0].path.name == f"{uid}.dcm"


def test_a_sop_class_that_is_not_the_contexts_is_refused(receiver: Daemon, peer: RawPeer) -> None:
    sent = instance(sop_class_uid=MR_IMAGE_STORAGE)
    assert_refused(peer.store(sent), "0122", 0x00000002)
    assert status(peer.store(instance())) == "0000"
    peer.release()
    assert receiver.stored(sent.sop_instance_uid) == []


def test_a_store_in_the_verification_context_is_refused(peer: RawPeer) -> None:
    assert status(peer.store(instance(), context_id=3)) == "0122"
    peer.release()


def test_a_query_is_no_operation_of_ours(peer: RawPeer) -> None:
    """A C-FIND with its Identifier, which is ignored."""
    peer.send(p_data(pdv(1, 3, request(0x0020, STUDY_ROOT_FIND, with_data_set=True))) + data_set_pdus(b"\0" * 50_000))
    answer = peer.read_message()
    assert_refused(answer, "0211")
    assert answer.command_field == 0x8020
    assert status(peer.store(instance())) == "0000"
    peer.release()


def test_a_store_without_a_data_set_is_refused(peer: RawPeer) -> None:
    command = c_store_rq(instance(), changes={wire.COMMAND_DATA_SET_TYPE: b"\x01\x01"})
    peer.send(p_data(pdv(1, 3, command)))
    assert_refused(peer.read_message(), "0212", 0x00000800)
    assert status(peer.store(instance())) == "0000"
    peer.release()


def test_a_store_without_a_sop_class_is_refused(peer: RawPeer) -> None:
    answer = peer.store(instance(), changes={wire.AFFECTED_SOP_CLASS_UID: None})
    assert_refused(answer, "0212", 0x00000002)
    assert status(peer.store(instance())) == "0000"
    peer.release()


# -- duplicates --------------------------------------------------------------------------------------------------------


def other_bytes(sent: Instance) -> Instance:
    """The same UIDs with one pixel changed."""
    return replace(sent, data_set=sent.data_set[:-1] + bytes([sent.data_set[-1] ^ 1]))


@pytest.mark.parametrize("policy", ["keep-both", "replace", "reject"])
def test_duplicates(start_daemon: StartDaemon, connect: Connect, policy: str) -> None:
    daemon = start_daemon(storage={"duplicates": policy})
    first = instance(size=10_000)
    second = other_bytes(first)
    peer = connect(daemon)
    peer.associate()
    for sent in (first, first):  # identical: success, but one file
        assert status(peer.store(sent)) == "0000"
    assert [file.data_set for file in daemon.stored()] == [first.data_set]
    answer = peer.store(second)
    following = instance()
    assert status(peer.store(following)) == "0000"
    peer.release()
    daemon.wait_no_temporary_files()
    kept = {file.data_set for file in daemon.stored(first.sop_instance_uid)}
    if policy == "keep-both":
        assert status(answer) == "0000"
        assert kept == {first.data_set, second.data_set}
        assert all(path.suffix == ".dcm" for path in daemon.paths())
    elif policy == "replace":
        assert status(answer) == "0000"
        assert kept == {second.data_set}
    else:
        assert_refused(answer, "C010")
        assert kept == {first.data_set}
    assert len(daemon.paths()) == len(kept) + 1
    daemon.wait_metric("dicomd_store_duplicates_total", 1, result="identical")


def test_the_same_instance_from_another_sender_and_in_another_syntax(receiver: Daemon, connect: Connect) -> None:
    """The File Meta Information is not compared, but the transfer syntax is."""
    uid = new_uid()
    ds = data_set(uid)
    explicit = Instance(CT_IMAGE_STORAGE, uid, EXPLICIT_LITTLE, encode(ds))
    implicit = Instance(CT_IMAGE_STORAGE, uid, IMPLICIT_LITTLE, encode(ds, IMPLICIT_LITTLE))
    for calling in ("ONE", "OTHER"):
        peer = connect()
        peer.associate([(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]), (CT_IMAGE_STORAGE, [IMPLICIT_LITTLE])], calling=calling)
        assert status(peer.store(explicit)) == "0000"
        assert status(peer.store(implicit, context_id=3)) == "0000"
        peer.release()
    found = {(file.transfer_syntax, file.data_set) for file in receiver.stored(uid)}
    assert found == {(EXPLICIT_LITTLE, explicit.data_set), (IMPLICIT_LITTLE, implicit.data_set)}
    assert len(receiver.stored(uid)) == 2


def test_the_same_instance_from_eight_senders_at_once_is_there_once(receiver: Daemon, connect: Connect) -> None:
    sent = instance(size=200_000)
    peers = [connect() for _ in range(8)]
    for peer in peers:
        peer.associate()
    message = store_message(sent)
    for peer in peers:
        peer.send(message[:-1])
    for peer in peers:
        peer.send(message[-1:])
    for peer in peers:
        assert status(peer.read_message()) == "0000"
        peer.release()
    assert [file.data_set for file in receiver.stored(sent.sop_instance_uid)] == [sent.data_set]


# -- space -------------------------------------------------------------------------------------------------------------


def test_an_object_over_the_limit_is_passed_over_to_its_end(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(storage={"max_object_size": "64KiB"})
    peer = connect(daemon)
    peer.associate()
    for large in (instance(size=65 * 1024), instance(size=3 * MIB)):
        peer.send(store_message(large) + store_message(instance(), message_id=2))  # the next one follows at once
        assert_refused(peer.read_message(), "A710")
        assert status(peer.read_message()) == "0000"
        assert daemon.stored(large.sop_instance_uid) == []
    exact = instance(size=60_000)
    exact = instance(size=60_000 + 65_536 - len(exact.data_set))
    peer.store(exact)
    peer.release()
    daemon.wait_no_temporary_files()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0755", "dicomd-test", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill the disk with one file, except for `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"\0" * (shutil.disk_usage(disk).free - leave))
    return filler


@pytest.mark.root
def test_a_full_disk_refuses_and_recovers(start_daemon: StartDaemon, connect: Connect, small_disk: Path) -> None:
    daemon = start_daemon(storage={"root": str(small_disk / "store")})
    peer = connect(daemon)
    peer.associate()
    assert status(peer.store(instance(size=MIB))) == "0000"
    filler = fill(small_disk, leave=MIB)
    for size in (2 * MIB, 4 * MIB):
        assert_refused(peer.store(instance(size=size)), "A700")
    daemon.wait_no_temporary_files()
    assert len(daemon.paths()) == 1
    filler.unlink()
    wait_until(daemon.ready, WAIT)
    assert status(peer.store(instance(size=2 * MIB))) == "0000"
    peer.release()
    assert len(daemon.stored()) == 2
    assert daemon.metric("dicomd_dimse_responses_total", command="C-STORE-RSP", status="A700") == 2
    assert all("make room" in record["advice"] for record in daemon.logged("store failed"))


@pytest.mark.root
def test_below_the_reserve_nothing_is_taken_until_there_is_room_again(
    start_daemon: StartDaemon, connect: Connect, small_disk: Path
) -> None:
    # One worker, because each checks the space for itself, and the gauge is 0 as soon as one of two is short of it.
    daemon = start_daemon(dicomd={"workers": 1}, storage={"root": str(small_disk / "store"), "reserve_free": "2MiB"})
    peer = connect(daemon)
    peer.associate()
    assert status(peer.store(instance())) == "0000"
    filler = fill(small_disk, leave=MIB)
    daemon.wait_metric("dicomd_store_accepting", 0)
    code, text = daemon.get("/-/ready")
    assert code == 503
    assert text.strip()
    assert daemon.get("/-/healthy")[0] == 200
    assert_refused(peer.store(instance()), "A700")
    late = connect(daemon)
    late.send(associate_rq())
    assert late.read_rejection() == (2, 3, 1)
    late.sock.close()
    filler.unlink()
    daemon.wait_metric("dicomd_store_accepting", 1)
    assert daemon.get("/-/ready")[0] == 200
    assert status(peer.store(instance())) == "0000"
    peer.release()
    daemon.wait_logged("space recovered")
    assert len(daemon.logged("space low")) == 1
    assert len(daemon.logged("space recovered")) == 1


@pytest.mark.root
def test_a_store_whose_mount_is_missing_is_unavailable_and_recovers(
    start_daemon: StartDaemon, connect: Connect, small_disk: Path, tmp_path: Path
) -> None:
    """An empty folder at the mount point must not be taken for an empty store."""
    mount_point = tmp_path / "mounted"
    mount_point.mkdir()
    bind = ["mount", "--bind", str(small_disk), str(mount_point)]
    subprocess.run(bind, check=True)
    try:
        daemon = start_daemon(storage={"root": str(mount_point)})
        peer = connect(daemon)
        peer.associate()
        assert status(peer.store(instance())) == "0000"
        daemon.wait_no_temporary_files()  # removed after the answer, which needs their disk
        subprocess.run(["umount", "--lazy", mount_point], check=True)
        assert_refused(peer.store(instance()), "A701")
        assert daemon.get("/-/ready")[0] == 503
        assert list(mount_point.iterdir()) == []
        subprocess.run(bind, check=True)
        wait_until(daemon.ready, WAIT)
        assert status(peer.store(instance())) == "0000"
        peer.release()
        assert len(daemon.stored()) == 2
        daemon.check_health()
        daemon.stop()
    finally:
        subprocess.run(["umount", "--lazy", mount_point], check=False, capture_output=True)


@pytest.mark.root
def test_a_start_without_the_mount_makes_no_new_store_and_waits_for_the_known_one(
    start_daemon: StartDaemon, connect: Connect, small_disk: Path, tmp_path: Path
) -> None:
    mount_point, state = tmp_path / "mounted", tmp_path / "state"
    mount_point.mkdir()
    state.mkdir()
    bind = ["mount", "--bind", str(small_disk), str(mount_point)]
    unmount = ["umount", "--lazy", str(mount_point)]
    subprocess.run(bind, check=True)
    try:
        daemon = start_daemon(storage={"root": str(mount_point)})
        daemon.stop()
        daemon.environment["STATE_DIRECTORY"] = str(state)
        daemon.start()
        daemon.stop()
        subprocess.run(unmount, check=True)
        seen: list[tuple[int, tuple[int, int, int], list[Path]]] = []

        def look_and_mount() -> None:
            wait_until(lambda: daemon.http[1] != 0, START_DEADLINE)
            peer = connect(daemon)
            peer.send(associate_rq())
            seen.append((daemon.get("/-/ready")[0], peer.read_rejection(), list(mount_point.iterdir())))
            subprocess.run(bind, check=True)

        daemon.address = daemon.http = ("", 0)
        looking = threading.Thread(target=look_and_mount)
        looking.start()
        daemon.start()  # returns once it is ready
        looking.join()
        assert seen == [(503, (2, 3, 1), [])]
        daemon.wait_logged("store recovered")
        assert len(daemon.logged("store unavailable")) == 1
        assert len(daemon.logged("store recovered")) == 1
        peer = connect(daemon)
        peer.associate()
        assert status(peer.store(instance())) == "0000"
        peer.release()
        daemon.stop()
    finally:
        subprocess.run(unmount, check=False, capture_output=True)


def test_rubbish_is_never_a_success(start_daemon: StartDaemon, connect: Connect) -> None:
    """Even if the layout needs no element of the Data Set."""
    daemon = start_daemon(storage={"layout": "{SOPInstanceUID}.dcm"})
    peer = connect(daemon)
    peer.associate()
    for rubbish in (b"\xff" * 5000, b"this is not DICOM, whatever the sender says. " * 100, b"\0" * 3, b"<html>" * 50):
        sent = Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, rubbish)
        assert (rubbish[:10], status(peer.store(sent))) == (rubbish[:10], "C000")
    peer.release()
    assert daemon.paths() == []
