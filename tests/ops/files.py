"""The files of ops/, read once and by what they are: rules, panels, the runbook.

The rule it keeps: no YAML parser is needed, for Prometheus itself tells the system tests what it has read; what is read
here is what a line's beginning says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from dicomd.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
PROMETHEUS = OPS / "prometheus"
RULES = PROMETHEUS / "rules.yaml"
RULES_TEST = Path(__file__).with_name("rules_test.yaml")
RUNBOOK = OPS / "runbook.md"
DASHBOARD = OPS / "grafana" / "dashboard.json"

ALERTS_OF_CONTRACT = (
    "DicomdDown",
    "DicomdStoreFailing",
    "DicomdNotAccepting",
    "DicomdStoreFillingUp",
    "DicomdReloadFailed",
    "DicomdCertificateExpiring",
    "DicomdInternalError",
    "DicomdAuditMessagesLost",
    "DicomdSaturated",
    "DicomdStoreSlow",
    "DicomdWorkerCrashing",
    "DicomdTLSHandshakesFailing",
    "DicomdPeerSilent",
)


@dataclass(frozen=True)
class Panel:
    """A panel's query: where it stands, and the expression with Grafana's variables."""

    title: str
    expression: str


def alerts() -> list[tuple[str, str]]:
    """Each alert's name and what is written of it, in the order of the file; a name may come twice."""
    _, *entries = re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)
    return [(entry.split("\n", 1)[0].strip(), entry) for entry in entries]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> list[Panel]:
    """Each query of the dashboard."""
    return [
        Panel(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]


def metric_names() -> set[str]:
    """Every metric that dicomd declares, by the name that is asked for; of a histogram that of its buckets."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="0")
    metrics.sample_store(accepting=True, avail_bytes=1, size_bytes=1, files_avail=1)
    metrics.associations_limit.set(1)
    metrics.reload_finished(successful=True, restart_pending=False)
    suffixes = {"counter": "_total", "histogram": "_bucket"}
    return {family.name + suffixes.get(family.type, "") for family in registry.collect()}
