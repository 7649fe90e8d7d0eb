"""Associations with an Asynchronous Operations Window (PS3.7 §D.3.3.3), over TCP and over TLS.

Commits are held at a gate, so that each test decides when and in which order they end.
"""

from __future__ import annotations

import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import blast
from tests.daemon.test_audit_losses import told
from tests.support import senders, wire
from tests.support.certificates import Pki, requestor_context
from tests.support.daemon import WAIT, Daemon
from tests.support.encoding import p_data, pdv
from tests.support.gate import Gate
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    EXPLICIT_LITTLE,
    VERIFICATION,
    Instance,
    instance,
    new_uid,
    write_file,
)
from tests.support.raw_peer import A_ABORT_PDU, A_RELEASE_RQ_PDU, Abort, RawPeer, c_echo_rq, store_message, window
from tests.support.waiting import wait_until
from tests.support.wire import Message

pytestmark = pytest.mark.slow  # the whole module: each test starts a daemon of its own

CONTEXTS = (
    (CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]),
    (VERIFICATION, [EXPLICIT_LITTLE]),
    (CT_IMAGE_STORAGE, [EXPLICIT_LITTLE]),
)
"""Presentation Contexts 1, 3 and 5."""
MOMENT = 0.3
"""Seconds within which a response that must not come would have come."""
StartGated = Callable[..., Daemon]
Open = Callable[..., RawPeer]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gated")


@pytest.fixture(params=["plain", "TLS"])
def transport(request: pytest.FixtureRequest, pki: Pki) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """What the daemon's configuration needs for it, and the peer's context."""
    if request.param == "plain":
        return {}, None
    listener = {"name": "tls", "address": "127.0.0.1:0", "tls": True}
    return {"listen": [listener], "tls": pki.tls()}, requestor_context(pki.trusted)


@pytest.fixture
def start_gated(gate: Gate, transport: tuple[dict[str, Any], ssl.SSLContext | None]) -> Iterator[StartGated]:
    """Start the daemon whose commits are held at the gate, with one worker and these tables of its configuration."""
    with ExitStack() as daemons:

        def start(**overrides: Any) -> Daemon:
            return daemons.enter_context(gate.daemon(transport[0] | {"dicomd": {"workers": 1}} | overrides))

        yield start


@pytest.fixture
def open_window(transport: tuple[dict[str, Any], ssl.SSLContext | None]) -> Iterator[Open]:
    """Open an Association with a window of so many operations."""
    with ExitStack() as peers:

        def open_one(daemon: Daemon, operations: int = 8, **options: Any) -> RawPeer:
            peer = peers.enter_context(RawPeer(daemon.address, tls=transport[1], **options))
            peer.associate(CONTEXTS, user_information=[window(operations)])
            return peer

        yield open_one


def other_bytes(sent: Instance) -> Instance:
    """The same SOP Instance UID with different pixels."""
    return Instance(sent.sop_class_uid, sent.sop_instance_uid, sent.transfer_syntax, sent.data_set[:-4] + b"DIFF")


def send(peer: RawPeer, *instances: Instance, first_id: int = 1) -> None:
    """Send instances with ascending Message IDs."""
    peer.send(b"".join(store_message(each, message_id=first_id + at) for at, each in enumerate(instances)))


def send_held(peer: RawPeer, gate: Gate, *instances: Instance) -> None:
    """Send instances and wait until the commit of each is held at the gate."""
    gate.hold(*instances)
    send(peer, *instances)
    gate.wait_reached(*instances)


def echo(peer: RawPeer, number: int = 99) -> Message:
    peer.send(p_data(pdv(3, 3, c_echo_rq(number))))
    return peer.read_message()


def nothing_comes(peer: RawPeer) -> None:
    """Nothing is received for a moment."""
    with pytest.raises(TimeoutError):
        peer.read_pdu(MOMENT)


def responses(peer: RawPeer, count: int) -> dict[int, tuple[str, int]]:
    """The next responses: Message ID → SOP Instance UID and Status."""
    found = [peer.read_message() for _ in range(count)]
    return {each.answered_id: (each.sop_instance_uid, each.status) for each in found}


def expect_success(peer: RawPeer, *instances: Instance) -> None:
    """The next responses are a success for each of these instances, which were sent with `send`."""
    assert responses(peer, len(instances)) == {at + 1: (each.sop_instance_uid, 0) for at, each in enumerate(instances)}


def test_responses_go_out_as_they_become_true(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated()
    sent = [instance() for _ in range(4)]
    gate.hold(sent[0], sent[2])
    peer = open_window(daemon)
    for at, each in enumerate(sent):
        peer.send(store_message(each, message_id=10 + at, context_id=(1, 5)[at % 2]))
    for expected in (1, 3):
        response = peer.read_message()
        assert (response.context_id, response.status) == (5, 0)
        assert (response.answered_id, response.sop_instance_uid) in {
            (10 + at, sent[at].sop_instance_uid) for at in (1, 3)
        }, expected
    gate.wait_reached(sent[0], sent[2])
    answer = echo(peer)
    assert (answer.context_id, answer.answered_id, answer.status) == (3, 99, 0)
    nothing_comes(peer)
    assert {path.stem for path in daemon.paths()} == {sent[1].sop_instance_uid, sent[3].sop_instance_uid}
    for at in (2, 0):
        gate.release(sent[at])
        response = peer.read_message()
        assert (response.context_id, response.answered_id, response.status) == (1, 10 + at, 0)
        assert response.sop_instance_uid == sent[at].sop_instance_uid
    peer.release()
    assert {file.data_set for file in daemon.stored()} == {each.data_set for each in sent}
    assert len(daemon.logged("instance stored")) == 4
    (ended,) = [daemon.wait_logged("association ended")]
    assert (ended["outcome"], ended["instances"], ended["failures"]) == ("released", 4, 0)
    assert ended["dicom_bytes"] == sum(len(each.data_set) for each in sent)
    daemon.wait_metric("dicomd_instances_stored_total", 4)
    daemon.wait_metric("dicomd_store_duration_seconds_count", 4)


def test_a_full_window_stops_reading(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated(limits={"asynchronous_operations": 2, "association_idle": "1s", "minimum_rate": 0})
    held = [instance() for _ in range(3)]
    flood = [instance(size=400_000) for _ in range(100)]
    gate.hold(*held)
    peer = open_window(daemon, 0)
    send(peer, *held)
    gate.wait_reached(*held[:2])
    peer.sock.settimeout(2)
    left = b"".join(store_message(each, message_id=10 + at) for at, each in enumerate(flood))
    taken = 0
    with pytest.raises(TimeoutError):  # longer than an Association may be idle
        while True:
            taken += peer.sock.send(left[taken : taken + 65536])
    gate.wait_reached(*held[:2])
    assert len(daemon.unfinished_files()) <= 1
    gate.release(*held)
    peer.sock.settimeout(WAIT)
    peer.sock.sendall(left[taken:])
    sent = dict(enumerate(held, start=1)) | dict(enumerate(flood, start=10))
    assert responses(peer, 103) == {number: (each.sop_instance_uid, 0) for number, each in sent.items()}
    peer.release()


@pytest.mark.parametrize("policy", ["keep-both", "replace", "reject"])
def test_an_instance_that_is_outstanding_waits_for_the_first(
    start_gated: StartGated, open_window: Open, gate: Gate, policy: str
) -> None:
    daemon = start_gated(storage={"duplicates": policy})
    first = instance()
    second, other = other_bytes(first), instance()
    gate.hold(first)
    peer = open_window(daemon)
    send(peer, other, first)
    assert peer.read_message().answered_id == 1
    gate.wait_reached(first)
    send(peer, second, first_id=3)
    nothing_comes(peer)
    gate.release(first)
    answers = [
        (response.answered_id, f"{response.status:04X}") for response in (peer.read_message(), peer.read_message())
    ]
    assert answers == [(2, "0000"), (3, "C010" if policy == "reject" else "0000")]
    peer.release()
    kept = [file.data_set for file in daemon.stored(first.sop_instance_uid)]
    expected = {"keep-both": [first, second], "replace": [second], "reject": [first]}[policy]
    assert sorted(kept) == sorted(each.data_set for each in expected)


def test_many_versions_of_one_instance_are_replaced_in_their_order(start_gated: StartGated, open_window: Open) -> None:
    daemon = start_gated(storage={"duplicates": "replace"})
    first = instance()
    versions = [
        Instance(first.sop_class_uid, first.sop_instance_uid, first.transfer_syntax, first.data_set[:-4] + b"%04d" % n)
        for n in range(40)
    ]
    peer = open_window(daemon)
    send(peer, *versions)
    assert [peer.read_message().answered_id for _ in versions] == list(range(1, 41))
    peer.release()
    (file,) = daemon.stored()
    assert file.data_set == versions[-1].data_set


def test_a_message_id_that_is_outstanding_waits_for_the_first(
    start_gated: StartGated, open_window: Open, gate: Gate
) -> None:
    daemon = start_gated()
    first, second = instance(), instance()
    gate.hold(first)
    peer = open_window(daemon)
    send(peer, first, first_id=7)
    gate.wait_reached(first)
    peer.send(p_data(pdv(3, 3, c_echo_rq(7))) + store_message(second, message_id=7))
    nothing_comes(peer)
    gate.release(first)
    found = [peer.read_message() for _ in range(3)]
    assert [each.answered_id for each in found] == [7, 7, 7]
    assert [each.sop_instance_uid for each in found] == [first.sop_instance_uid, "", second.sop_instance_uid]
    peer.release()


def test_a_release_waits_for_what_is_outstanding(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated()
    sent = [instance() for _ in range(3)]
    peer = open_window(daemon)
    send_held(peer, gate, *sent)
    peer.send(A_RELEASE_RQ_PDU)
    nothing_comes(peer)
    assert daemon.connections() == 1
    gate.release(*sent)
    expect_success(peer, *sent)
    assert peer.read_pdu().type == wire.A_RELEASE_RP
    assert daemon.wait_logged("association ended")["instances"] == 3


@pytest.mark.parametrize("how", ["abort", "reset", "close"])
def test_what_is_being_committed_ends_with_the_association(
    start_gated: StartGated, open_window: Open, gate: Gate, how: str
) -> None:
    """It is stored, as its commit had begun; and what had not is not."""
    daemon = start_gated()
    sent, unfinished = [instance() for _ in range(3)], instance(size=200_000)
    gate.hold(*sent)
    peer = open_window(daemon)
    send(peer, *sent)
    begun = store_message(unfinished, message_id=9)
    peer.send(begun[: begun.index(p_data(pdv(1, 0, unfinished.data_set[96_000:112_000])))])
    gate.wait_reached(*sent)
    wait_until(daemon.unfinished_files, WAIT, what="the unfinished instance has not arrived")
    if how == "abort":
        peer.send(A_ABORT_PDU)
    elif how == "reset":
        peer.reset()
    else:
        peer.sock.close()
    wait_until(daemon.unfinished_files, WAIT, equals=[], what="the unfinished instance is kept")
    assert daemon.paths() == []
    assert daemon.connections() == 1
    gate.release(*sent)
    outcome = "aborted_by_peer" if how == "abort" else "connection_lost"
    ended = daemon.wait_logged("association ended")
    assert (ended["outcome"], ended["instances"], ended["failures"]) == (outcome, 3, 1)
    assert {file.data_set for file in daemon.stored()} == {each.data_set for each in sent}
    wait_until(daemon.connections, WAIT, equals=0)
    told = [record.get("detail", "") for record in daemon.logged("instance stored")]
    assert len(told) == 3
    if how == "abort":
        assert told == ["the response could not be sent"] * 3
    assert len(daemon.logged("instance incomplete")) == 1
    assert daemon.status()["associations"]["open"] == 0


def test_a_peer_that_closed_only_its_side_gets_its_responses(
    start_gated: StartGated, open_window: Open, gate: Gate, transport: tuple[dict[str, Any], ssl.SSLContext | None]
) -> None:
    daemon = start_gated()
    sent = [instance() for _ in range(3)]
    peer = open_window(daemon)
    send_held(peer, gate, *sent)
    socket.socket.shutdown(peer.sock, socket.SHUT_WR)
    gate.release(*sent)
    expect_success(peer, *sent)
    peer.read_end()


def test_an_invalid_pdu_costs_no_response(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated()
    sent = [instance() for _ in range(2)]
    peer = open_window(daemon)
    send_held(peer, gate, *sent)
    peer.send(bytes.fromhex("42000000000400000000"))
    nothing_comes(peer)
    gate.release(*sent)
    expect_success(peer, *sent)
    assert peer.read_abort() == Abort(2, 1)
    assert daemon.wait_logged("association ended")["instances"] == 2


def test_a_drain_lets_everything_end(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated(dicomd={"workers": 1, "drain_timeout": "60s"})
    sent = [instance() for _ in range(4)]
    peer = open_window(daemon)
    send_held(peer, gate, *sent[:2])
    daemon.signal(signal.SIGTERM)
    daemon.wait_logged("stopping")
    send(peer, *sent[2:], first_id=3)
    assert set(responses(peer, 2)) == {3, 4}
    gate.release(*sent[:2])
    assert set(responses(peer, 2)) == {1, 2}
    peer.release()
    assert daemon.wait() == 0
    assert len(daemon.stored()) == 4
    assert daemon.temporary_files() == []


def test_at_the_end_of_a_drain_commits_under_way_end_and_no_other_begins(
    start_gated: StartGated, open_window: Open, gate: Gate
) -> None:
    daemon = start_gated(dicomd={"workers": 1, "drain_timeout": "1s"}, limits={"asynchronous_operations": 2})
    sent = [instance() for _ in range(3)]
    gate.hold(*sent)
    peer = open_window(daemon)
    send(peer, *sent)  # the third is complete and waits for its turn
    gate.wait_reached(*sent[:2])
    daemon.signal(signal.SIGTERM)
    daemon.wait_logged("instance incomplete", dicom_sop_instance_uid=sent[2].sop_instance_uid)
    gate.release(*sent)
    assert responses(peer, 2) == {at + 1: (sent[at].sop_instance_uid, 0) for at in range(2)}
    assert peer.read_abort() == Abort(0, 0)
    assert daemon.wait() == 0
    assert {file.data_set for file in daemon.stored()} == {each.data_set for each in sent[:2]}
    assert daemon.temporary_files() == []
    ended = daemon.wait_logged("association ended")
    assert (ended["outcome"], ended["instances"], ended["failures"]) == ("aborted_locally", 2, 1)


def test_a_reload_leaves_the_window_of_open_associations(
    start_gated: StartGated, open_window: Open, gate: Gate
) -> None:
    daemon = start_gated()
    sent = [instance() for _ in range(4)]
    gate.hold(*sent[:3])
    peer = open_window(daemon)
    send(peer, *sent[:2])
    gate.wait_reached(*sent[:2])
    daemon.configure(limits={"asynchronous_operations": 1})
    assert daemon.reload()["event"] == "config applied"
    send(peer, *sent[2:], first_id=3)
    gate.wait_reached(*sent[:3])
    assert set(responses(peer, 1)) == {4}
    late = open_window(daemon)
    assert wire.user_information(late.accept.body)[0x53] == [bytes((0, 1, 0, 1))]
    late.release()
    gate.release(*sent[:3])
    assert set(responses(peer, 3)) == {1, 2, 3}
    peer.release()
    assert len(daemon.stored()) == 4


def test_the_idle_limit_rests_while_an_operation_is_outstanding(
    start_gated: StartGated, open_window: Open, gate: Gate
) -> None:
    daemon = start_gated(limits={"association_idle": "1s"})
    sent = instance()
    peer = open_window(daemon)
    send_held(peer, gate, sent)
    with pytest.raises(TimeoutError):
        peer.read_pdu(2.5)
    released = time.monotonic()
    gate.release(sent)
    assert peer.read_message().status == 0
    assert peer.read_abort(WAIT) == Abort(0, 0)
    assert time.monotonic() - released >= 1
    assert daemon.wait_logged("association ended")["outcome"] == "timed_out"


def test_one_bad_instance_concerns_itself(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated(storage={"max_object_size": "50KiB"})
    good = [instance() for _ in range(4)]
    large, strange = instance(size=100_000), instance()
    wrong = Instance(strange.sop_class_uid, new_uid(), strange.transfer_syntax, strange.data_set)
    gate.hold(*good[:2])
    peer = open_window(daemon)
    send(peer, good[0], large, good[1], wrong, good[2], good[3])
    found = {number: f"{status:04X}" for number, (_, status) in responses(peer, 4).items()}
    assert found == {2: "A710", 4: "A900", 5: "0000", 6: "0000"}
    gate.release(*good[:2])
    assert set(responses(peer, 2)) == {1, 3}
    peer.release()
    assert {file.data_set for file in daemon.stored()} == {each.data_set for each in good}
    ended = daemon.wait_logged("association ended")
    assert (ended["instances"], ended["failures"]) == (4, 2)
    daemon.wait_metric("dicomd_instances_stored_total", 4)


def test_the_status_shows_what_has_been_answered(start_gated: StartGated, open_window: Open, gate: Gate) -> None:
    daemon = start_gated()
    sent = [instance() for _ in range(200)]
    peer = open_window(daemon)
    send(peer, *sent)
    assert len(responses(peer, 200)) == 200
    size = sum(len(each.data_set) for each in sent)

    def shown() -> list[tuple[int, int, int]]:
        return [(row["instances"], row["failures"], row["bytes"]) for row in daemon.status()["associations"]["listed"]]

    wait_until(shown, WAIT, equals=[(200, 0, size)])
    peer.release()


def test_each_instance_is_audited_once(start_gated: StartGated, open_window: Open, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    daemon = start_gated(audit={"spool": str(spool)})
    sent = [instance() for _ in range(120)]  # each of a study of its own
    peer = open_window(daemon)
    send(peer, *sent)
    assert len(responses(peer, 120)) == 120
    peer.release()
    studies = {path.parent.parent.name: 1 for path in daemon.paths()}
    assert len(studies) == 120
    wait_until(lambda: told(spool), WAIT, equals=studies)


def test_a_peer_that_never_reads_is_got_rid_of(start_gated: StartGated, open_window: Open) -> None:
    daemon = start_gated(
        limits={"request_timeout": "1s"},
        log={"instances": False},
        storage={"durability": "none", "duplicates": "reject"},
    )
    peer = open_window(daemon, receive_buffer=4096)
    known, echoes = instance(), p_data(pdv(3, 3, c_echo_rq())) * 50
    flood = b"".join(store_message(known, message_id=2 + at) for at in range(8)) + echoes
    peer.sock.settimeout(WAIT)
    with pytest.raises(OSError, match=r"reset|[Bb]roken pipe|EOF|closed"):
        peer.send_for_ever(flood)
    assert daemon.wait_logged("association ended")["outcome"] == "connection_lost"
    daemon.wait_metric("dicomd_limit_hits_total", 1, limit="send_timeout")
    wait_until(daemon.connections, WAIT, equals=0)
    assert len(daemon.paths()) == 1


@pytest.mark.timeout(120)
def test_memory_stays_flat(start_gated: StartGated, open_window: Open) -> None:
    daemon = start_gated(log={"instances": False}, storage={"durability": "none"})
    (worker,) = daemon.worker_pids()

    def peak() -> int:
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())[0])

    def store(peer: RawPeer, count: int) -> None:
        for first in range(1, count, 8):
            send(peer, *(instance(size=20_000) for _ in range(8)), first_id=first)
            assert {status for _, status in responses(peer, 8).values()} == {0}

    peer = open_window(daemon)
    store(peer, 400)
    before = peak()
    store(peer, 4000)
    assert peak() - before < 4 << 20
    peer.release()


def test_the_benchmarks_sender_keeps_its_window_full(gate: Gate) -> None:
    with gate.daemon({"log": {"instances": False}}) as daemon:
        order = blast.Order("store", 300, 4096, window=8)
        tally = blast.perform(order, blast.Receiver(daemon.port, timeout=WAIT))
        assert (tally.failed, len(tally.taken)) == (0, 300)
        assert len(daemon.paths()) == 300


@pytest.mark.timeout(180)  # the first run installs dcmjs-dimse
def test_dcmjs_dimse_goes_on_while_an_instance_is_outstanding(gate: Gate, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.dcm" for number in range(20)]
    sent = [write_file(file, size=5000) for file in files]
    senders.dcmjs_folder()
    gate.hold(sent[0])
    with gate.daemon({"dicomd": {"workers": 1}}) as daemon, ThreadPoolExecutor(1) as pool:
        running = pool.submit(senders.dcmjs_dimse, *daemon.address, *files, window=16)
        gate.wait_reached(sent[0])
        wait_until(lambda: len(daemon.paths()), WAIT, equals=19, what="the others have to wait")
        gate.release(sent[0])
        done = running.result()
        assert done.exit_status == 0, done.output
        lines = [line.split() for line in done.output.splitlines()]
        assert sorted(lines) == sorted(["0000", each.sop_instance_uid] for each in sent)
        assert lines.index(["0000", sent[0].sop_instance_uid]) >= 12  # the last 7 responses were still under way
        stored = {file.sop_instance_uid: file.data_set for file in daemon.stored()}
        assert stored.keys() == {each.sop_instance_uid for each in sent}
        assert daemon.wait_logged("association ended")["instances"] == 20
