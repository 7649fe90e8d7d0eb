"""Fixtures: a real DICOM peer in this process, and a function that runs the command."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.presentation import AllStoragePresentationContexts

from dicomd.cli.main import main


@dataclass
class ReceivingPeer:
    """pynetdicom's acceptor, the instances it has received, and its answers."""

    port: int = 0
    answer: Callable[[evt.Event], int | Dataset] = lambda event: 0x0000
    received: list[tuple[str, str, bytes]] = field(default_factory=list)  # SOP Instance, Transfer Syntax, data set
    associations: int = 0

    def stored(self, event: evt.Event) -> int | Dataset:
        data_set = event.request.DataSet.getvalue()
        self.received.append((event.request.AffectedSOPInstanceUID, event.context.transfer_syntax, data_set))
        return self.answer(event)

    def echoed(self, event: evt.Event) -> int | Dataset:
        return self.answer(event)

    def accepted(self, event: evt.Event) -> None:
        self.associations += 1


@pytest.fixture
def start_peer() -> Iterator[Callable[..., ReceivingPeer]]:
    """Start a peer: contexts are (Abstract Syntax, Transfer Syntaxes), by default all storage and Verification."""
    servers = []

    def start(contexts: list[tuple[str, list[str]]] | None = None, **settings: object) -> ReceivingPeer:
        entity = AE(ae_title="PEER")
        for name, value in settings.items():
            setattr(entity, name, value)
        if contexts is None:
            contexts = [(str(c.abstract_syntax), ALL_TRANSFER_SYNTAXES) for c in AllStoragePresentationContexts]
            contexts.append(("1.2.840.10008.1.1", ALL_TRANSFER_SYNTAXES[:2]))
        for abstract_syntax, transfer_syntaxes in contexts:
            entity.add_supported_context(abstract_syntax, transfer_syntaxes)
        peer = ReceivingPeer()
        handlers = [
            (evt.EVT_C_STORE, peer.stored),
            (evt.EVT_C_ECHO, peer.echoed),
            (evt.EVT_ACCEPTED, peer.accepted),
        ]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        servers.append(server)
        peer.port = server.server_address[1]
        return peer

    yield start
    for server in servers:
        server.shutdown()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "Thread@" in thread.name:
            thread.join(timeout=5)


@pytest.fixture
def dicomd() -> Callable[..., Result]:
    """Run `dicomd` with arguments; an uncaught exception fails the test."""

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="dicomd")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call
