"""Each limit holds, is counted under its name, and is reported in the log (docs/limits.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support import wire
from tests.support.encoding import item, p_data, pdu, pdu_header, pdv
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, instance
from tests.support.raw_peer import Abort, RawPeer, associate_rq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # the whole module: each test starts daemons of its own

BEFORE, INVALID = Abort(0, 0), Abort(2, 6)


def context(context_id: int, *, syntaxes: int = 1, uid: bytes = EXPLICIT_LITTLE.encode()) -> bytes:
    abstract = item(0x30, CT_IMAGE_STORAGE.encode())
    return item(0x20, bytes((context_id, 0, 0, 0)) + abstract + item(0x40, uid) * syntaxes)


def request(*items: bytes) -> bytes:
    """An A-ASSOCIATE-RQ with these items after those of an ordinary one."""
    return pdu(wire.A_ASSOCIATE_RQ, associate_rq()[6:] + b"".join(items))


REQUESTS = {
    "associate_rq": pdu_header(wire.A_ASSOCIATE_RQ, 256 * 1024 + 1),
    "items": request(item(0x10, b"1") * 300),
    "presentation_contexts": request(*(context(number % 256) for number in range(129))),
    "transfer_syntaxes": request(context(9, syntaxes=129)),
    "user_information": request(item(0x50, item(0x99, b"") * 1025)),
    "uid_length": request(item(0x10, b"1." + b"2" * 70)),
}


def too_long(peer: RawPeer) -> None:
    peer.send(pdu_header(wire.P_DATA_TF, 256 * 1024 + 1))
    assert peer.read_abort() == INVALID


def too_long_a_command(peer: RawPeer) -> None:
    peer.send(p_data(pdv(1, 1, bytes(60_000))) + p_data(pdv(1, 1, bytes(60_000))))
    assert peer.read_abort() == INVALID


def too_long_an_object(peer: RawPeer) -> None:
    assert f"{peer.store(instance(size=200_000)).status:04X}" == "A710"
    peer.release()


def idle(peer: RawPeer) -> None:
    assert peer.read_abort(30) == BEFORE


TOLD = {
    "associate_rq": ("connection without association", "A-ASSOCIATE-RQ of 262145 bytes"),
    "items": ("association ended", "more than 256 items"),
    "presentation_contexts": ("association ended", "more than 128 Presentation Contexts"),
    "transfer_syntaxes": (
        "association ended",
        "more than 128 Transfer Syntaxes or unknown sub-items in a Presentation Context",
    ),
    "user_information": ("association ended", "more than 1024 User Information sub-items"),
    "uid_length": ("association ended", "the Application Context Name has a UID of 72 characters, and 64 is the limit"),
    "max_pdu": ("association ended", "P-DATA-TF of 262145 bytes exceeds 262144"),
    "command_set": ("association ended", "a Command Set of over 65536 bytes"),
    "max_object_size": ("store failed", "Object is larger than this receiver accepts"),
    "association_idle": ("association ended", "idle for 6 s"),
    "associations_per_peer": ("association rejected", "limits.associations_per_peer = 1 are open from this host"),
    "connections": ("connection refused", "limits.connections are open"),
    "request_timeout": ("connection without association", "no A-ASSOCIATE-RQ: nothing complete within 6 s"),
}
"""The log event of each limit, and text that it contains."""

IN_AN_ASSOCIATION: dict[str, Callable[[RawPeer], None]] = {
    "max_pdu": too_long,
    "command_set": too_long_a_command,
    "max_object_size": too_long_an_object,
    "association_idle": idle,
}


@pytest.mark.timeout(180)
def test_each_limit_holds_and_is_counted(start_daemon: StartDaemon, connect: Connect) -> None:
    daemon = start_daemon(
        dicomd={"workers": 1},
        storage={"max_object_size": "100KiB"},
        limits={"connections": 2, "associations_per_peer": 1, "association_idle": "6s", "request_timeout": "6s"},
    )

    def none_open() -> None:
        wait_until(daemon.connections, 30, equals=0)

    expected = dict.fromkeys((*REQUESTS, *IN_AN_ASSOCIATION, "connections", "associations_per_peer"), 1.0)
    for limit, sent in REQUESTS.items():
        peer = connect(daemon)
        peer.send(sent)
        assert peer.read_abort() == BEFORE, limit
        none_open()
    for happens in IN_AN_ASSOCIATION.values():
        peer = connect(daemon)
        peer.associate()
        happens(peer)
        none_open()
    first, second = connect(daemon), connect(daemon)
    first.associate()
    second.send(associate_rq())
    assert second.read_rejection() == (2, 3, 2)
    assert connect(daemon).read_to_the_end() == []
    first.release()
    second.sock.close()
    none_open()
    connect(daemon).read_end(30)
    expected["request_timeout"] = 1.0
    for limit, count in expected.items():
        daemon.wait_metric("dicomd_limit_hits_total", count, limit=limit)
    lines = [
        (line["event"], {line.get(key) for key in ("error", "error_comment", "advice")}) for line in daemon.records
    ]
    for limit, (event, told) in TOLD.items():
        assert any(line == event and told in said for line, said in lines), limit
    (aborted,) = daemon.logged("association ended", error="P-DATA-TF of 262145 bytes exceeds 262144")
    assert "limits.max_pdu" in aborted["advice"]
    assert expected.keys() == TOLD.keys()
    hits = {
        dict(labels)["limit"] for (name, labels), hit in daemon.metrics().items() if "limit_hits_total" in name and hit
    }
    assert hits == expected.keys()
