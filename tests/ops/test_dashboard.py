"""The dashboard conforms to Grafana's schema, is readable, and shows every metric of dicomd."""

from __future__ import annotations

import itertools
import re
import runpy
from typing import Any

import pytest

from tests.ops.files import DASHBOARD, OPS, dashboard, metric_names, panels
from tests.ops.promql import selectors, without_variables

# Metrics without a panel, with the reason.
NOT_SHOWN = {
    "dicomd_config_last_reload_success_timestamp_seconds": "whether the last reload succeeded matters more than when",
}


def shown() -> list[dict[str, Any]]:
    """The panels that aren't rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_it_is_what_its_program_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program builds it with Grafana's own library, whose types enforce the schema."""
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    monkeypatch.syspath_prepend(DASHBOARD.parent)
    assert runpy.run_path(str(DASHBOARD.with_suffix(".py")))["render"]() == DASHBOARD.read_text()


def test_grafana_s_library_reads_it_and_writes_the_same() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    again = JSONEncoder(indent=2, sort_keys=True).encode(Dashboard.from_json(dashboard()))
    assert again + "\n" == DASHBOARD.read_text()


def test_it_is_a_dashboard() -> None:
    shared_state = dashboard()
    assert shared_state["uid"] == "dicomd"
    assert shared_state["schemaVersion"] >= 36
    assert [variable["name"] for variable in shared_state["templating"]["list"]] == ["datasource", "instance"]
    rows = [panel["title"] for panel in shared_state["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "Instances", "Associations", "Peers", "Store", "Process"]
    assert "id" not in shared_state, "an id is specific to a database, and could overwrite another dashboard"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    shared_state = dashboard()["panels"]
    assert len({panel["id"] for panel in shared_state}) == len(shared_state)
    for panel in shared_state:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in itertools.combinations((panel["gridPos"] for panel in shared_state), 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )


@pytest.mark.parametrize("panel", shown(), ids=lambda panel: panel["title"])
def test_a_panel_explains_itself_and_asks_the_chosen_source_about_the_chosen_instances(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("stat", "timeseries")
    assert panel["description"].endswith((".", ")"))
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        for selector in selectors(without_variables(target["expr"])):
            assert 'instance=~".*"' in selector.text


def test_titles_name_one_panel_each() -> None:
    titles = [panel["title"] for panel in shown()]
    assert len(set(titles)) == len(titles)


def test_every_metric_has_its_panel() -> None:
    asked = {selector.name for panel in panels() for selector in selectors(without_variables(panel.expression))}
    assert metric_names() - asked == set(NOT_SHOWN)


def test_the_provisioning_files_name_the_source_and_the_folder() -> None:
    """Checked as lines, because a YAML parser for only two files would be one more dependency."""
    source = (OPS / "grafana/provisioning/datasources/dicomd.yaml").read_text()
    provider = (OPS / "grafana/provisioning/dashboards/dicomd.yaml").read_text()
    scrape = re.search(r"scrape_interval: (\w+)", (OPS / "prometheus/prometheus.yml").read_text())
    assert scrape
    assert re.search(rf"^      timeInterval: {scrape[1]}\b", source, re.MULTILINE)
    for text in (source, provider):
        assert re.search(r"^apiVersion: 1$", text, re.MULTILINE)
        assert "\t" not in text
    assert re.search(r"^    type: prometheus$", source, re.MULTILINE)
    assert re.search(r"^      path: /var/lib/grafana/dashboards/dicomd\b", provider, re.MULTILINE)
