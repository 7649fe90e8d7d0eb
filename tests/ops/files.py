"""Reads the files of ops/ for the tests: rules, dashboard panels and the runbook.

The rules are read line by line without a YAML parser: the system tests ask Prometheus itself what it has read.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from dicomd.telemetry.metrics import Metrics
from tests.support.metrics import metrics_in

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
    "DicomdInstancesUnfiled",
    "DicomdSaturated",
    "DicomdStoreSlow",
    "DicomdWorkerCrashing",
    "DicomdTLSHandshakesFailing",
    "DicomdPeerSilent",
)


@dataclass(frozen=True)
class Panel:
    """A panel's query: its place, and its expression with Grafana's variables."""

    title: str
    expression: str


def alerts() -> list[tuple[str, str]]:
    """Each alert's name and text, in the order of the file; a name may occur twice."""
    _, *entries = re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)
    return [(entry.split("\n", 1)[0].strip(), entry) for entry in entries]


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> list[Panel]:
    """Each query of the dashboard."""
    return [
        Panel(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]


def metric_names() -> set[str]:
    """Every metric that dicomd declares, by the name used in queries; for a histogram, that of its buckets."""
    registry = CollectorRegistry()
    suffixes = {"counter": "_total", "histogram": "_bucket"}
    with tempfile.TemporaryDirectory() as folder, metrics_in(Path(folder)):
        metrics = Metrics(registry, version="0")
        metrics.sample_store(accepting=True, avail_bytes=1, size_bytes=1, files_avail=1)
        metrics.associations_limit.set(1)
        metrics.reload_finished(successful=True, restart_pending=False)
        return {family.name + suffixes.get(family.type, "") for family in registry.collect()}
