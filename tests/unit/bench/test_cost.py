"""The table of costs: medians, and their ratios to the first of the same durability."""

from __future__ import annotations

import json
from pathlib import Path

from bench.cost import Cost, page, to_json, variants
from bench.receivers import Place

PLACE = Path("/nowhere")


def test_each_is_compared_with_the_first_of_its_durability() -> None:
    found = {
        "none-quiet": [Cost(90, 1), Cost(100, 1), Cost(300, 1)],
        "none-json": [Cost(110, 1), Cost(115, 2), Cost(120, 3)],
        "fsync-quiet": [Cost(1000, 1)],
        "fsync-uncounted": [Cost(950, 1)],
    }
    text = page(found)
    assert "none: one line per instance, JSON" in text
    for told in ("115.0", "+15.0 %", "-5.0 %", "2.0"):
        assert told in text
    assert json.loads(to_json(found))["fsync-uncounted"] == [{"object_us": 950, "scrape_ms": 1}]


def test_each_variant_starts_dicomd_with_its_own_log(tmp_path: Path) -> None:
    place = Place(1, 2, tmp_path / "store", tmp_path, tmp_path / "sender")
    commands = {
        variant.name: (variant.command(place), (tmp_path / "dicomd.toml").read_text()) for variant in variants("none")
    }
    assert "instances = false" in commands["none-quiet"][1]
    assert 'durability = "none"' in commands["none-json"][1]
    assert commands["none-uncounted"][0][2] == "bench.uncounted"
    assert commands["none-journald"][0][0] == "unshare"
    assert 'format = "journald"' in commands["none-journald"][1]
