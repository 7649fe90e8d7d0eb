"""Nothing of an ended Association is left to the garbage collector, which may not run for a long time."""

from __future__ import annotations

import gc
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry

from dicomd import unready
from dicomd.dimse.commands import CommandSet
from dicomd.ipc.shared_state import SharedState
from dicomd.net.acceptor_settings import AcceptorSettings
from dicomd.net.access import AccessRules
from dicomd.net.admission import Admission, AdmissionLimits
from dicomd.net.association import Association
from dicomd.net.buffers import BufferPool
from dicomd.net.deadlines import TimeLimits
from dicomd.net.report import AssociationReport
from dicomd.net.status_sink import Refused
from dicomd.net.tls import TlsSettings, TlsTransport, server_context
from dicomd.net.transport import PlainTransport
from dicomd.services.operations import PresentationContext, Services, Verification
from dicomd.services.storage import StorageService, StoreOperation
from dicomd.telemetry.metrics import Metrics
from dicomd.upperlayer.negotiation import Negotiator
from tests.support import wire
from tests.support.certificates import Pki
from tests.support.objects import EXPLICIT_LITTLE, instance
from tests.support.raw_peer import A_RELEASE_RQ_PDU, RawPeer, associate_rq, store_message
from tests.support.worker_slots import worker_slot
from tests.unit.store.instances import file_store

pytestmark = pytest.mark.usefixtures("metric_files")

MAX_PDU = 1 << 18
Transport = Callable[[socket.socket], PlainTransport]


@pytest.fixture
def settings(tmp_path: Path) -> AcceptorSettings:
    store = file_store(tmp_path / "store")
    store.check()
    return AcceptorSettings(
        negotiator=Negotiator(
            sop_classes=None,
            transfer_syntaxes=[EXPLICIT_LITTLE],
            max_pdu=MAX_PDU,
            implementation_class_uid="1.2.3",
            implementation_version_name="TEST",
        ),
        services=Services(verification=Verification(), storage=StorageService(store)),
        admission=Admission(
            AdmissionLimits(connections=8, associations=8),
            rules=AccessRules(audit=False, associations_per_peer=8),
            unready=lambda: "",
            counter=worker_slot(SharedState()),
        ),
        limits=TimeLimits(request=0.3),
        max_pdu=MAX_PDU,
        buffers=BufferPool(),
    )


@pytest.fixture
def collected_by_hand() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class NoStatus:
    """A `StatusSink` and `AssociationStatus` that show nothing."""

    def open(self, known: dict[str, Any]) -> Self:
        return self

    def count(self, *, associations: int = 0, rejected: int = 0) -> None:
        pass

    def refused(self, what: Refused, *, why: str, advice: str = "", **who: str) -> None:
        pass

    def answered(self, *, stored: bool, size: int) -> None:
        pass

    def close(self) -> None:
        pass


def plain(sock: socket.socket) -> PlainTransport:
    return PlainTransport(sock, send_timeout=1.0)


def new_report() -> AssociationReport:
    return AssociationReport(
        Metrics(CollectorRegistry(), version="0", listeners=["dicom"], peers=[]),
        listener="dicom",
        address="127.0.0.1",
        instances=True,
        status_sink=NoStatus(),
    )


def left_behind(settings: AcceptorSettings, sent: bytes, transport: Transport) -> Association | None:
    """An ended Association whose peer sent only this, or None if it has been freed."""
    report = new_report()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        association = Association(transport(server.accept()[0]), "127.0.0.1", settings, report)
        association.run()
    watched = weakref.ref(association)
    del association
    return watched()


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        associate_rq()[:50],
        associate_rq(),
        associate_rq() + store_message(instance()) + A_RELEASE_RQ_PDU,
        associate_rq() + store_message(instance(size=300_000))[:100_000],
    ],
    ids=["silent", "not DICOM", "half a request", "idle", "released", "cut in an object"],
)
def test_nothing_stays(settings: AcceptorSettings, sent: bytes) -> None:
    assert left_behind(settings, sent, plain) is None


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("sent", [b"", associate_rq()], ids=["silent", "not TLS"])
def test_nothing_stays_of_a_handshake_that_failed(settings: AcceptorSettings, sent: bytes, tmp_path: Path) -> None:
    context = server_context(TlsSettings(*Pki.make(tmp_path).server))
    assert left_behind(settings, sent, lambda sock: TlsTransport(sock, context, send_timeout=1.0)) is None


class Stopping(StorageService):
    """Stops its Association when the second instance begins."""

    association: Association
    begun = 0

    def begin(self, request: CommandSet, context: PresentationContext) -> StoreOperation:
        self.begun += 1
        if self.begun == 2:
            self.association.stop(unready.STOPPING)
        return super().begin(request, context)


def test_a_stop_comes_between_two_messages_that_have_arrived_already(
    settings: AcceptorSettings, tmp_path: Path
) -> None:
    store = file_store(tmp_path / "store")
    storage = Stopping(store)
    settings = replace(settings, services=Services(verification=Verification(), storage=storage))
    sent = [instance() for _ in range(5)]
    with socket.create_server(("127.0.0.1", 0)) as server, RawPeer(server.getsockname()) as peer:
        peer.send(associate_rq() + b"".join(map(store_message, sent)))
        report = new_report()
        storage.association = Association(plain(server.accept()[0]), "127.0.0.1", settings, report)
        storage.association.run()
        assert peer.read_pdu().type == wire.A_ASSOCIATE_AC
        assert [peer.read_message().status for _ in range(2)] == [0, 0]
        assert peer.read_pdu().type == wire.A_ABORT
    assert storage.begun == 2
    assert len(list((tmp_path / "store").rglob("*.dcm"))) == 2


class Watched(BufferPool):
    """Signals when a buffer has been returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lent = 0
        self.back = threading.Event()

    def borrow(self) -> memoryview:
        self.lent += 1
        return super().borrow()

    def give_back(self, buffer: memoryview) -> None:
        super().give_back(buffer)
        self.back.set()


def test_the_large_buffer_stays_while_instances_follow_each_other_and_goes_when_they_pause(
    settings: AcceptorSettings,
) -> None:
    pool = Watched()
    settings = replace(settings, buffers=pool, limits=TimeLimits(window=2.0, idle=20.0))
    report = new_report()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        association = Association(plain(server.accept()[0]), "127.0.0.1", settings, report)
        served = threading.Thread(target=association.run)
        served.start()
        peer.settimeout(20)
        peer.sendall(associate_rq())
        assert peer.recv(65536)[0] == 2
        for lent in (1, 2):
            for size in (600_000, 100, 300_000):
                peer.sendall(store_message(instance(size=size)))
                assert peer.recv(65536)[0] == 4
            assert pool.lent == lent
            assert pool.back.wait(20)
            pool.back.clear()
        peer.sendall(A_RELEASE_RQ_PDU)
        assert peer.recv(65536)[0] == 6
        peer.shutdown(socket.SHUT_WR)
        served.join(20)
    assert not served.is_alive()
