"""DICOM files that packages of others ship: each is stored as it is, or refused for a reason that the log says."""

from __future__ import annotations

import re

import pytest

from tests.support import public_files
from tests.support.daemon import Daemon
from tests.support.page_tables import documented
from tests.support.public_files import SOURCES, Source

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_each_file_is_stored_or_refused_for_the_reason_on_the_page(receiver: Daemon, source: Source) -> None:
    """Whether what was stored is what was sent, and what was refused is in the log, is asserted in `measured`."""
    version = source.version()
    if not version:
        pytest.skip(f"the files of {source.name} were not fetched: scripts/test does it")
    row = list(public_files.measured(source, receiver))
    written = documented(public_files.TABLE)[source.name]
    assert int(row[3]) > 0
    if version == written[1]:
        assert row == written, "run: python -m tests.support.public_files"


def test_the_page_has_a_row_for_each_package_and_more_than_200_files() -> None:
    written = documented(public_files.TABLE)
    assert list(written) == [source.name for source in SOURCES]
    assert sum(int(row[2]) for row in written.values()) > 200
    for row in written.values():
        refused = sum(map(int, re.findall(r"(?:^|; )(\d+): ", row[4])))
        assert int(row[2]) == int(row[3]) + refused
