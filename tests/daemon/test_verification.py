"""C-ECHO from every sender that has one (PS3.4 Annex A)."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import Connect
from tests.support import senders
from tests.support.daemon import free_port
from tests.support.relay import Relay
from tests.support.senders import Run

pytestmark = pytest.mark.system


def assert_echoed(done: Run, relay: Relay) -> None:
    assert done.exit_status == 0, done.output
    (talk,) = relay.conversations()
    assert [response.status for response in talk.responses] == [0x0000]
    assert [response.command_field for response in talk.responses] == [0x8030]


def test_echoscu(relay: Relay) -> None:
    assert_echoed(senders.run(senders.program("echoscu"), *relay.address), relay)


def test_echoscu_proposing_128_contexts_in_all_transfer_syntaxes(relay: Relay) -> None:
    done = senders.run(
        senders.program("echoscu"), "--propose-pc", 128, "--propose-ts", 38, "--repeat", 3, *relay.address
    )
    assert done.exit_status == 0, done.output
    (talk,) = relay.conversations()
    assert len(talk.contexts) == 128
    assert [response.status for response in talk.responses] == [0x0000] * 3


def test_pynetdicoms_echoscu(relay: Relay) -> None:
    assert_echoed(senders.pynetdicom("echoscu", *relay.address), relay)


def test_gdcmscu(relay: Relay) -> None:
    assert_echoed(senders.gdcmscu(*relay.address, "--echo"), relay)


def test_dicomd_echo(relay: Relay) -> None:
    assert_echoed(senders.dicomd("echo", *relay.address), relay)


def test_dicomd_echo_fails_where_nobody_listens() -> None:
    done = senders.dicomd("echo", "127.0.0.1", free_port())
    assert done.exit_status == 1
    assert done.output.strip()


def test_an_echo_has_to_come_in_its_own_context(connect: Connect) -> None:
    peer = connect()
    peer.associate()
    assert f"{peer.echo(context_id=1).status:04X}" == "0122"
    assert peer.echo(context_id=3).status == 0x0000
    peer.release()
