"""Debian's Prometheus scrapes a running dicomd under use: every rule and panel must find the series it queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ops.files import metric_names, panels
from tests.ops.prometheus import Prometheus
from tests.ops.promql import grouped_by, selectors, without_variables
from tests.support import senders
from tests.support.daemon import Daemon
from tests.support.encoding import pdu
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, Instance, data_set, encode, instance, new_uid
from tests.support.raw_peer import A_ABORT_PDU, RawPeer, associate_rq

pytestmark = [pytest.mark.system, pytest.mark.timeout(50)]

STORED, ECHOES = 20, 2

# Metrics that have no series here, with the reason. An entry that does have one fails the test as outdated.
WITHOUT_SERIES = {
    "dicomd_tls_certificate_not_after_timestamp_seconds": "no listener speaks TLS",
    'dicomd_peer_last_store_timestamp_seconds{peer!="unknown"}': "no peer is configured, so every one is unknown",
}
# The labels of metrics that have no series at all here; those of all others are read from their series.
LABELS_WITHOUT_SERIES = {"dicomd_tls_certificate_not_after_timestamp_seconds": {"listener"}}
# Expressions that may be empty although their series exist, with the reason; an alert that need not fire is empty.
MAY_BE_EMPTY = {
    "Space lasts for": "the free space isn't shrinking",
}
TARGET_LABELS = {"job", "instance"}


@dataclass(frozen=True)
class Scene:
    """A daemon that has been used, and the Prometheus that has scraped it."""

    daemon: Daemon
    prometheus: Prometheus


@dataclass(frozen=True)
class Expression:
    """An expression of a rule or a panel, with its name."""

    name: str
    text: str
    alert: bool = False


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    program = Path(senders.program("promtool")).with_name("prometheus")  # both are in one package
    # One worker, because a second might still accept an instance after the first has found the store gone.
    settings = {"dicomd": {"ae_titles": ["DICOMD"], "workers": 1}}
    with Daemon(tmp_path_factory.mktemp("dicomd"), settings) as daemon, ExitStack() as stack:
        prometheus = Prometheus(program, tmp_path_factory.mktemp("prometheus"), "{}:{}".format(*daemon.http))
        stack.callback(prometheus.stop)
        prometheus.start()
        prometheus.wait_until(
            lambda: prometheus.value("dicomd_instances_stored_total") == 0, "scraped before the first"
        )
        _send(daemon)
        everything = f'dicomd_associations_total{{outcome="released"}} == 1 and on () {_stores("A701")} == 1'
        prometheus.wait_until(lambda: prometheus.query(everything), "scraped after the last")
        # wait for the figures of an evaluation after all of that
        prometheus.wait_until(lambda: prometheus.query("instance:dicomd_store_failures:ratio_rate5m > 0"), "evaluated")
        yield Scene(daemon, prometheus)


def test_prometheus_has_counted_what_was_sent(scene: Scene) -> None:
    value = scene.prometheus.value
    assert value('up{job="dicomd"}') == 1
    assert value("dicomd_instances_stored_total") == STORED
    assert value(_stores("0000")) == STORED
    assert value(_stores("A900")) == 1
    assert value(_stores("A701")) == 1
    assert value('dicomd_dimse_responses_total{command="C-ECHO-RSP",status="0000"}') == ECHOES
    assert value('dicomd_store_errors_total{operation="open"}') == 1
    assert value("dicomd_store_duration_seconds_count") == STORED + 2
    for outcome in ("released", "rejected", "aborted_by_peer", "aborted_locally"):
        assert value(f'dicomd_associations_total{{outcome="{outcome}"}}') == 1, outcome
    assert value("sum(dicomd_associations_active)") == 0
    assert value('dicomd_workers{state="ready"} > bool 0') == 1


def test_every_rule_can_be_evaluated_and_no_alert_fires(scene: Scene) -> None:
    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in scene.prometheus.rules())

    scene.prometheus.wait_until(evaluated, "all rules evaluated")
    for rule in scene.prometheus.rules():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
        assert rule.get("state") != "firing", rule


def test_every_expression_uses_only_metrics_and_labels_that_dicomd_exposes(scene: Scene) -> None:
    prometheus = scene.prometheus
    assert set(LABELS_WITHOUT_SERIES) <= metric_names()
    exposed = prometheus.names() | set(LABELS_WITHOUT_SERIES)
    wrong = []
    for expression in _expressions(prometheus):
        found = selectors(expression.text)
        assert found, expression
        labels = set(TARGET_LABELS)
        for selector in found:
            has = prometheus.labels(selector.name) | LABELS_WITHOUT_SERIES.get(selector.name, set()) | TARGET_LABELS
            if selector.name not in exposed:
                wrong.append(f"{expression.name}: dicomd has no {selector.name}")
            elif missing := selector.labels - has:
                wrong.append(f"{expression.name}: {selector.name} has no {', '.join(sorted(missing))}")
            labels |= has
        if unknown := grouped_by(expression.text) - labels:
            wrong.append(f"{expression.name}: grouped by {', '.join(sorted(unknown))}")
    assert not wrong, "\n".join(wrong)


def test_every_expression_returns_data_or_is_empty_for_a_stated_reason(scene: Scene) -> None:
    prometheus = scene.prometheus
    wrong = []
    for expression in _expressions(prometheus):
        absent = set()
        for selector in selectors(expression.text):
            asked = selector.text.replace('instance=~".*",', "").replace('{instance=~".*"}', "")
            if not prometheus.query(selector.text):
                absent.add(asked)
                if asked not in WITHOUT_SERIES:
                    wrong.append(f"{expression.name}: no series for {selector.text}")
            elif asked in WITHOUT_SERIES:
                wrong.append(f"{expression.name}: there is a series for {asked}, although {WITHOUT_SERIES[asked]}")
        if not absent and not expression.alert and expression.name not in MAY_BE_EMPTY:
            if not prometheus.query(expression.text):
                wrong.append(f"{expression.name}: empty")
        else:
            prometheus.query(expression.text)  # it must not fail
    assert not wrong, "\n".join(wrong)


def _stores(status: str) -> str:
    return f'dicomd_dimse_responses_total{{command="C-STORE-RSP",status="{status}"}}'


def _expressions(prometheus: Prometheus) -> list[Expression]:
    rules = [Expression(rule["name"], rule["query"], rule["type"] == "alerting") for rule in prometheus.rules()]
    shown = [Expression(panel.title, without_variables(panel.expression)) for panel in panels()]
    assert len(rules) >= 20
    assert len(shown) >= 40
    return rules + shown


def _send(daemon: Daemon) -> None:
    """Send stores and echoes, and one of each failure; the Association with a regular end comes last."""
    with RawPeer(daemon.address) as rejected:
        rejected.send(associate_rq(called="OTHER"))
        rejected.read_rejection()
    with RawPeer(daemon.address) as aborting:
        aborting.associate()
        aborting.send(A_ABORT_PDU)
        aborting.read_end()
    with RawPeer(daemon.address) as aborted:
        aborted.associate()
        aborted.send(pdu(0x42))
        aborted.read_abort()
    with RawPeer(daemon.address) as peer:
        peer.associate()
        for _ in range(STORED):
            assert peer.store(instance(size=20_000)).status == 0
        for _ in range(ECHOES):
            assert peer.echo().status == 0
        other = Instance(CT_IMAGE_STORAGE, new_uid(), EXPLICIT_LITTLE, encode(data_set(new_uid())))
        assert peer.store(other).status == 0xA900
        _lose_store(daemon, peer)
        peer.release()


def _lose_store(daemon: Daemon, peer: RawPeer) -> None:
    """Have an instance refused because the store is gone, as after an unmount; then bring it back."""
    sentinel = daemon.root / ".dicomd" / "store"
    away = sentinel.with_name("away")
    sentinel.rename(away)
    daemon.wait_metric("dicomd_store_accepting", 0)
    assert peer.store(instance()).status == 0xA701
    away.rename(sentinel)
    daemon.wait_metric("dicomd_store_accepting", 1)
