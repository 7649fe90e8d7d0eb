"""Whether a Data Set is the instance that its command names is answered alike however its bytes are cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dicomd.store.errors import DataSetMismatch, DataSetUnreadable, StoreError
from dicomd.tags import SOP_CLASS_UID, SOP_INSTANCE_UID
from tests.support.encoding import element
from tests.unit.store.instances import CT_IMAGE_STORAGE, INSTANCE, data_set, file_store, files, head, put

FILE_META = element(0x00020010, "UI", "1.2.840.10008.1.2.1")
NO_ITEM = b"\xfe\xff\xdd\xe0\0\0\0\0"
ANOTHER = {
    "instance": head(instance="9.9.9", study=None, series=None),
    "class": head(sop_class="9.9.9", study=None, series=None),
    "instance without a class": element(SOP_INSTANCE_UID, "UI", "9.9.9"),
}


def refusal(root: Path, data: bytes, cuts: Sequence[int]) -> StoreError:
    with pytest.raises(StoreError) as refused:
        put(file_store(root), data, cuts=cuts)
    assert files(root) == []
    return refused.value


@pytest.mark.parametrize("behind", [b"", FILE_META, NO_ITEM, b"\x10\0"], ids=["nothing", "meta", "no item", "cut off"])
@pytest.mark.parametrize("another", ANOTHER)
def test_another_instance_is_told_apart_whatever_else_is_wrong_behind_its_uid(
    tmp_path: Path, another: str, behind: bytes
) -> None:
    data = ANOTHER[another] + behind
    for cuts in ((), range(1, len(data))):
        error = refusal(tmp_path, data, cuts)
        assert isinstance(error, DataSetMismatch)
        assert error.element == (SOP_CLASS_UID if another == "class" else SOP_INSTANCE_UID)
        assert error.found == "9.9.9"


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_wrong_before_the_uid_decides(tmp_path: Path, cut: bool) -> None:
    data = FILE_META + ANOTHER["instance"]
    error = refusal(tmp_path, data, range(1, len(data)) if cut else ())
    assert isinstance(error, DataSetUnreadable)
    assert error.element == 0x00020010


@pytest.mark.parametrize(("sop_class", "missing"), [(None, SOP_CLASS_UID), (CT_IMAGE_STORAGE, SOP_INSTANCE_UID)])
def test_the_uid_that_is_missing_is_named(tmp_path: Path, sop_class: str | None, missing: int) -> None:
    data = data_set(instance=INSTANCE if sop_class is None else None, sop_class=sop_class)
    error = refusal(tmp_path, data, ())
    assert isinstance(error, DataSetUnreadable)
    assert error.element == missing
