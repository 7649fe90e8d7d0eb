"""An Association with a window in this process: defects, missing threads, deaf peers, and what stays of it."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomd.dimse.commands import CommandSet
from dicomd.net.acceptor_settings import AcceptorSettings
from dicomd.net.association import Association
from dicomd.net.committers import Committers
from dicomd.net.deadlines import RestingDeadline, TimedOutError, TimeLimits
from dicomd.net.message_report import MessageReport
from dicomd.net.report import AssociationReport
from dicomd.net.tls import TlsSettings, TlsTransport, server_context
from dicomd.net.transport import PlainTransport
from dicomd.outcomes import Outcome
from dicomd.services.operations import PresentationContext, Services, Verification
from dicomd.services.storage import StorageService, StoreOperation
from dicomd.upperlayer.negotiation import Negotiator
from tests.support import processes, wire
from tests.support.certificates import Pki, requestor_context
from tests.support.objects import EXPLICIT_LITTLE, Instance, instance
from tests.support.raw_peer import A_ABORT_PDU, A_RELEASE_RQ_PDU, Abort, RawPeer, store_message, window
from tests.unit.net.test_association import (  # noqa: F401 - two are fixtures
    MAX_PDU,
    collected_by_hand,
    new_report,
    plain,
    settings,
)
from tests.unit.store.instances import file_store
from tests.unit.telemetry.conftest import Lines, _log_put_back, json_log  # noqa: F401 - fixtures

pytestmark = pytest.mark.usefixtures("metric_files", "json_log")


@pytest.fixture
def windowed(settings: AcceptorSettings) -> AcceptorSettings:  # noqa: F811 - the fixture
    negotiator = Negotiator(
        sop_classes=None,
        transfer_syntaxes=[EXPLICIT_LITTLE],
        max_pdu=MAX_PDU,
        implementation_class_uid="1.2.3",
        implementation_version_name="TEST",
        asynchronous_operations=8,
    )
    return replace(settings, negotiator=negotiator)


class Storage(StorageService):
    """Lets a test do something in place of a commit, in the thread that commits."""

    def __init__(self, folder: Path, instead: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(file_store(folder))
        self._instead = instead
        self.threads: list[str] = []

    def begin(self, request: CommandSet, context: PresentationContext) -> StoreOperation:
        operation = super().begin(request, context)
        writer = operation._writer  # noqa: SLF001 - a commit that fails unexpectedly can't be had otherwise
        assert writer is not None
        commit = writer.commit

        def watched() -> Any:
            self.threads.append(threading.current_thread().name)
            return self._instead(commit)

        writer.commit = watched  # type: ignore[method-assign]
        return operation


@contextmanager
def serving(
    settings: AcceptorSettings,  # noqa: F811
    report: AssociationReport,
    *,
    transport: Callable[[socket.socket], PlainTransport] = plain,
    operations: int = 8,
    **options: Any,
) -> Iterator[RawPeer]:
    """An open Association whose thread must have ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threads: list[threading.Thread] = []

        def serve() -> None:
            Association(transport(server.accept()[0]), "127.0.0.1", settings, report).run()

        threads.append(threading.Thread(target=serve, name="association"))
        threads[0].start()
        with RawPeer(server.getsockname()[:2], **options) as peer:
            peer.associate(user_information=[window(operations)] if operations > 1 else [])
            yield peer
        threads[0].join(20)
        assert not threads[0].is_alive()


def outcome_of(report: AssociationReport) -> Outcome | None:
    return report._outcome  # noqa: SLF001 - otherwise it is only logged


def send(peer: RawPeer, sent: list[Instance]) -> None:
    peer.send(b"".join(store_message(each, message_id=1 + at) for at, each in enumerate(sent)))


def with_storage(settings: AcceptorSettings, storage: StorageService) -> AcceptorSettings:  # noqa: F811
    return replace(settings, services=Services(verification=Verification(), storage=storage))


def test_an_unexpected_exception_of_a_commit_is_an_answer(
    windowed: AcceptorSettings,
    tmp_path: Path,
    json_log: Lines,  # noqa: F811 - the fixture
) -> None:
    def fail(_commit: Callable[[], Any]) -> Any:
        raise ZeroDivisionError

    storage, report = Storage(tmp_path / "other", fail), new_report()
    with serving(with_storage(windowed, storage), report) as peer:
        send(peer, [instance() for _ in range(3)])
        assert [peer.read_message().status for _ in range(3)] == [0xC211] * 3
        assert peer.echo().status == 0
        peer.release()
    assert outcome_of(report) is Outcome.RELEASED
    assert set(storage.threads) == {"committer"}
    assert list((tmp_path / "other").rglob("*.dcm")) == []
    assert [line["module"] for line in json_log() if line["event"] == "internal error"] == ["store"] * 3


def test_a_defect_in_another_thread_aborts_the_association(
    windowed: AcceptorSettings,
    monkeypatch: pytest.MonkeyPatch,
    json_log: Lines,  # noqa: F811 - the fixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MessageReport, "before_answer", fail)
    report = new_report()
    with serving(windowed, report) as peer:
        send(peer, [instance()])
        pdus = peer.read_to_the_end()
    assert [pdu.type for pdu in pdus] == [wire.A_ABORT]
    assert outcome_of(report) is Outcome.ABORTED_LOCALLY
    assert [line["module"] for line in json_log() if line["event"] == "internal error"] == ["net"]


@pytest.mark.parametrize("end", ["release", "abort", "close"])
def test_a_defect_is_reported_once_even_if_the_association_is_over(
    windowed: AcceptorSettings,
    monkeypatch: pytest.MonkeyPatch,
    json_log: Lines,  # noqa: F811 - the fixture
    end: str,
) -> None:
    begun, may_fail = threading.Event(), threading.Event()

    def fail(*_: Any, **__: Any) -> None:
        begun.set()
        assert may_fail.wait(20)
        raise ZeroDivisionError

    monkeypatch.setattr(MessageReport, "before_answer", fail)
    with serving(windowed, report := new_report()) as peer:
        send(peer, [instance()])
        assert begun.wait(20)
        if end == "close":
            peer.sock.close()
        else:
            peer.send(A_RELEASE_RQ_PDU if end == "release" else A_ABORT_PDU)
        may_fail.set()
        if end == "release":  # is not granted, since a request has no response
            assert [pdu.type for pdu in peer.read_to_the_end()] == [wire.A_ABORT]
    if end == "release":
        assert outcome_of(report) is Outcome.ABORTED_LOCALLY
    assert [line["module"] for line in json_log() if line["event"] == "internal error"] == ["net"]


@pytest.mark.parametrize("committers", [0, 1, 64])
def test_without_a_thread_the_association_commits_itself(
    windowed: AcceptorSettings, tmp_path: Path, committers: int
) -> None:
    storage, report = Storage(tmp_path / "other", lambda commit: commit()), new_report()
    settings = replace(with_storage(windowed, storage), committers=Committers(committers))  # noqa: F811
    sent = [instance() for _ in range(30)]
    with serving(settings, report) as peer:
        send(peer, sent)
        found = [peer.read_message() for _ in sent]
        peer.release()
    assert {each.sop_instance_uid for each in found} == {each.sop_instance_uid for each in sent}
    assert {each.status for each in found} == {0}
    assert len(list((tmp_path / "other").rglob("*.dcm"))) == 30
    if not committers:
        assert set(storage.threads) == {"association"}
    assert outcome_of(report) is Outcome.RELEASED


class Refusing(Committers):
    """Must not be asked."""

    def assign(self, work: Callable[[], None]) -> bool:
        raise AssertionError(f"{work} is for another thread")


def test_an_association_without_a_window_uses_no_other_thread(windowed: AcceptorSettings, tmp_path: Path) -> None:
    storage, report = Storage(tmp_path / "other", lambda commit: commit()), new_report()
    settings = replace(with_storage(windowed, storage), committers=Refusing())  # noqa: F811
    with serving(settings, report, operations=1) as peer:
        for _ in range(3):
            assert peer.store(instance()).status == 0
        peer.release()
    assert set(storage.threads) == {"association"}


def test_without_a_descriptor_for_it_instances_are_served_one_by_one(
    windowed: AcceptorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", refuse)
    pki = Pki.make(tmp_path)
    context = server_context(TlsSettings(*pki.server))
    storage, report = Storage(tmp_path / "other", lambda commit: commit()), new_report()
    settings = with_storage(windowed, storage)  # noqa: F811
    sent = [instance() for _ in range(10)]

    def transport(sock: socket.socket) -> PlainTransport:
        return TlsTransport(sock, context, send_timeout=1.0)

    with serving(settings, report, transport=transport, tls=requestor_context(pki.trusted)) as peer:
        send(peer, sent)
        assert [peer.read_message().answered_id for _ in sent] == list(range(1, 11))
        peer.release()
    assert set(storage.threads) == {"association"}
    assert outcome_of(report) is Outcome.RELEASED


def soon_full(sock: socket.socket) -> PlainTransport:
    """A transport whose writes soon wait for a peer that doesn't read, half a second at most."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return PlainTransport(sock, send_timeout=0.5)


@pytest.mark.timeout(60)
def test_a_peer_that_does_not_read_ends_the_association_in_time(windowed: AcceptorSettings, tmp_path: Path) -> None:
    """Its responses are all sent by other threads."""
    report = new_report()
    with serving(windowed, report, transport=soon_full, receive_buffer=2048) as peer:
        peer.sock.settimeout(20)
        known = instance()
        with pytest.raises(ConnectionError):
            peer.send_for_ever(b"".join(store_message(known, message_id=number) for number in range(1, 9)))
    assert outcome_of(report) is Outcome.CONNECTION_LOST


@pytest.mark.timeout(60)
def test_nobody_waits_for_ever_for_a_peer_that_neither_reads_nor_sends(windowed: AcceptorSettings) -> None:
    """It asks for the release, and the responses that are due first can't be sent."""
    report = new_report()
    with serving(windowed, report, transport=soon_full, receive_buffer=2048) as peer:
        peer.sock.settimeout(20)
        known = instance()
        with pytest.raises(ConnectionError):
            peer.send(b"".join(store_message(known, message_id=number) for number in range(1, 4000)) + A_RELEASE_RQ_PDU)
            peer.sock.settimeout(20)
            while True:  # the release is refused by a reset
                time.sleep(0.05)
                peer.sock.send(b"\0")
    assert outcome_of(report) is Outcome.CONNECTION_LOST


def descriptors() -> int:
    """How many sockets and eventfds this process has open."""
    targets = processes.descriptors(os.getpid()).values()
    return sum("socket:" in target or "eventfd" in target for target in targets)


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("end", ["release", "abort", "close"])
def test_nothing_stays(windowed: AcceptorSettings, tmp_path: Path, end: str, *, secure: bool) -> None:
    pki = Pki.make(tmp_path) if secure else None
    context = server_context(TlsSettings(*pki.server)) if pki is not None else None
    options = {} if pki is None else {"tls": requestor_context(pki.trusted)}
    watched: list[weakref.ref[Any]] = []

    def transport(sock: socket.socket) -> PlainTransport:
        return plain(sock) if context is None else TlsTransport(sock, context, send_timeout=1.0)

    before = descriptors()
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve(server: socket.socket = server) -> None:
                association = Association(transport(server.accept()[0]), "127.0.0.1", windowed, new_report())
                watched.append(weakref.ref(association))
                association.run()

            thread = threading.Thread(target=serve)
            thread.start()
            with RawPeer(server.getsockname()[:2], **options) as peer:
                peer.associate(user_information=[window(8)])
                sent = [instance() for _ in range(20)]
                send(peer, sent)
                assert {peer.read_message().status for _ in sent} == {0}
                if end == "release":
                    peer.release()
                elif end == "abort":
                    peer.send(bytes.fromhex("07000000000400000000"))
                    peer.read_end()
            thread.join(20)
    assert [each() for each in watched] == [None] * 3
    assert descriptors() == before


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("why", ["a peer that does not read", "a defect", "a stop"])
def test_nothing_stays_of_what_another_thread_has_ended(
    windowed: AcceptorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, *, secure: bool
) -> None:
    """An error that one thread leaves for another must not keep what its traceback leads to."""
    pki = Pki.make(tmp_path) if secure else None
    context = server_context(TlsSettings(*pki.server)) if pki is not None else None
    options = {} if pki is None else {"tls": requestor_context(pki.trusted)}
    watched: list[weakref.ref[Any]] = []

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    def serve(server: socket.socket) -> None:
        sock = server.accept()[0]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport = (
            PlainTransport(sock, send_timeout=0.5) if context is None else TlsTransport(sock, context, send_timeout=0.5)
        )
        association = Association(transport, "127.0.0.1", windowed, new_report())
        watched.append(weakref.ref(association))
        association.run()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with RawPeer(server.getsockname()[:2], receive_buffer=2048, **options) as peer:
            peer.associate(user_information=[window(8)])
            peer.sock.settimeout(20)
            if why == "a stop":
                watched[0]().stop("the daemon stops")
                assert peer.read_abort() == Abort(0, 0)
            elif why == "a defect":
                monkeypatch.setattr(MessageReport, "before_answer", fail)
                send(peer, [instance()])
                assert peer.read_to_the_end()[-1].type == wire.A_ABORT
            else:
                known = instance()
                with pytest.raises(OSError, match=r"reset|[Bb]roken pipe|EOF|closed"):
                    peer.send_for_ever(b"".join(store_message(known, message_id=number) for number in range(1, 9)))
        thread.join(20)
    assert [each() for each in watched] == [None]


class Clocked(PlainTransport):
    """Notes the time limits of reads."""

    __slots__ = ("limits",)

    def limit_receive(self, seconds: float) -> None:
        self.limits = seconds


def test_limits_rest_while_something_is_outstanding() -> None:
    quiet: list[float | None] = [None]
    with socket.socket() as sock:
        transport = Clocked(sock, send_timeout=1)
        deadline = RestingDeadline(transport, TimeLimits(idle=20, minimum_rate=1e6, window=0.05), lambda: quiet[0])
        deadline.between_messages()
        deadline.elapsed()
        deadline.elapsed()
        assert transport.limits == 20
        quiet[0] = time.monotonic() - 10
        deadline.elapsed()
        assert 0 < transport.limits <= 10
        quiet[0] = time.monotonic() - 30
        with pytest.raises(TimedOutError, match="idle"):
            deadline.elapsed()
        deadline.in_message()
        quiet[0] = None
        for _ in range(3):
            deadline.before_receive()
            time.sleep(0.06)
            deadline.elapsed()
            deadline.received(1)
        quiet[0] = 0.0
        deadline.before_receive()
        time.sleep(0.06)
        with pytest.raises(TimedOutError, match="bytes in"):
            deadline.received(1)
