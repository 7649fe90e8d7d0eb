"""docs/limits.md names every limit that is counted, and no others."""

from dicomd.telemetry.labels import LIMITS
from tests.unit.docs.markdown import ROOT, rows, section


def test_every_limit_is_explained_once() -> None:
    table = rows(section((ROOT / "docs/limits.md").read_text(encoding="utf-8"), "Limits"))
    assert sorted(row[0].strip("`") for row in table) == sorted(LIMITS)
    assert [row for row in table if not all(row)] == []
