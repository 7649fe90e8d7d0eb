"""The groups "all-storage" and "all" are compared with PS3.6 Table A-1, so that what they lack is noticed.

When an edition adds UIDs, add them to tests/support/ps3.6-uids.csv and name the edition there; the tests then say what
is missing in dicomd/config/registry.py.
"""

import csv
import subprocess
import sys
from typing import NamedTuple

import pytest

from dicomd.config.contexts import resolve, sop_class_uids, transfer_syntax_uids
from dicomd.config.registry import SOP_CLASS, TRANSFER_SYNTAX, of_type
from tests.unit.docs.markdown import ROOT

# In PS3.6's names, but not sent by C-STORE: a DICOMDIR, and two services.
NOT_STORED = {"1.2.840.10008.1.3.10", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.2"}
RETIRED_IN_USE = {"1.2.840.10008.1.2.2"}  # Explicit VR Big Endian
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


class Registered(NamedTuple):
    """A line of the table: `retired` is "retired" or empty."""

    uid: str
    name: str
    keyword: str
    type: str
    retired: str


def _table() -> list[Registered]:
    with (ROOT / "tests/support/ps3.6-uids.csv").open(encoding="utf-8", newline="") as file:
        _, *found = csv.reader(line for line in file if not line.startswith("#"))
    return [Registered(*row) for row in found]


TABLE = _table()


def test_all_storage_is_every_storage_sop_class_of_the_standard() -> None:
    listed = {entry.uid for entry in TABLE if entry.type == SOP_CLASS and "Storage" in entry.name}
    assert set(resolve(["all-storage"], []).sop_classes or ()) == listed - NOT_STORED
    assert listed > NOT_STORED


def test_all_is_every_transfer_syntax_of_the_standard_in_use() -> None:
    in_use = {entry.uid for entry in TABLE if entry.type == TRANSFER_SYNTAX and not entry.retired}
    assert set(resolve([], ["all"]).transfer_syntaxes) == in_use | RETIRED_IN_USE


@pytest.mark.parametrize("kind", [SOP_CLASS, TRANSFER_SYNTAX])
def test_the_registry_is_the_table(kind: str) -> None:
    found = {(uid, entry.name, entry.keyword, entry.retired) for uid, entry in of_type(kind).items()}
    assert found == {(e.uid, e.name, e.keyword, bool(e.retired)) for e in TABLE if e.type == kind}


def test_every_storage_sop_class_and_transfer_syntax_has_the_keyword_of_the_standard() -> None:
    for entry in TABLE:
        if entry.type == TRANSFER_SYNTAX:
            assert transfer_syntax_uids(entry.keyword) == (entry.uid,)
        elif "Storage" in entry.name and entry.uid not in NOT_STORED:
            assert sop_class_uids(entry.keyword) == (entry.uid,)


def test_keywords_do_not_depend_on_what_else_has_been_imported() -> None:
    program = "from dicomd.config.contexts import transfer_syntax; print(transfer_syntax('JPEGXLLossless'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "JPEGXLLossless\n", done.stderr
