"""Senders written by others, each with one object of every kind: all is stored as sent, and docs/senders.md says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import sender_table
from tests.support.assortment import KINDS, Item, make_assortment
from tests.support.daemon import Daemon
from tests.support.page_tables import documented
from tests.support.sender_table import NOT_SENT, SENDERS, Sender

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that accepts the private SOP Class of the assortment, too."""
    with Daemon(tmp_path_factory.mktemp("dicomd"), sender_table.CONFIGURATION) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return make_assortment(tmp_path_factory.mktemp("assortment"))


@pytest.mark.parametrize("sender", SENDERS, ids=lambda sender: sender.title)
def test_what_a_sender_sends_is_stored_and_is_what_the_page_says(
    receiver: Daemon, items: list[Item], sender: Sender
) -> None:
    """Another version of the sender may do otherwise, as long as all that it sends is stored as sent."""
    row = sender_table.measured(sender, receiver, items)
    written = documented(sender_table.TABLE)[sender.title]
    assert len(row) == len(written) == 2 + len(KINDS)
    assert set(row[2:]) != {NOT_SENT}
    if row[1] == written[1] or sender.title == "`dicomd send`":
        assert row[2:] == written[2:], "run: python -m tests.support.sender_table"


def test_the_page_has_a_row_for_each_sender() -> None:
    assert list(documented(sender_table.TABLE)) == [sender.title for sender in SENDERS]
