"""The rules and their runbook: rules are valid, each alert is tested, and the runbook explains what to do about it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from dicomd.cli.main import COMMANDS
from dicomd.config.schema import Config
from dicomd.telemetry.fields import FIELDS, journal_field
from dicomd.telemetry.messages import Message
from tests.ops.files import ALERTS_OF_CONTRACT, OPS, PROMETHEUS, ROOT, RULES_TEST, RUNBOOK, alerts, dashboard, panels
from tests.ops.promql import without_variables
from tests.support import senders


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return its output. Fails if it fails."""
    done = subprocess.run(
        [senders.program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.system
def test_the_configuration_and_the_rules_are_valid() -> None:
    output = promtool("check", "config", "--lint=duplicate-rules", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    assert "1 rule files found" in output
    assert "is valid prometheus config file" in output


@pytest.mark.system
def test_the_rules_do_what_their_tests_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULES_TEST)


@pytest.mark.system
def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    lines = ["groups:", "- name: panels", "  rules:"]
    for number, panel in enumerate(panels()):
        lines += [f"  - record: panel:{number}", f"    expr: {json.dumps(without_variables(panel.expression))}"]
    rules = tmp_path / "panels.yaml"
    rules.write_text("\n".join(lines))
    assert f"{len(panels())} rules found" in promtool("check", "rules", rules)


def test_there_is_an_alert_for_all_that_was_promised() -> None:
    assert {name for name, _ in alerts()} == set(ALERTS_OF_CONTRACT)


@pytest.mark.parametrize("alert", ALERTS_OF_CONTRACT)
def test_an_alert_is_tested_both_ways(alert: str) -> None:
    cases = re.findall(rf"alertname: {alert}\b[,\s]+exp_alerts:([^\n]*)", RULES_TEST.read_text())
    silent = [case for case in cases if case.strip(" }") == "[]"]
    assert silent, "no test in which it must not fire"
    assert len(cases) > len(silent), "no test in which it must fire"


@pytest.mark.parametrize(("alert", "text"), alerts(), ids=lambda value: value if value in ALERTS_OF_CONTRACT else "")
def test_an_alert_says_how_urgent_it_is_and_where_its_runbook_is(alert: str, text: str) -> None:
    assert re.search(r"^ +severity: (page|ticket)$", text, re.MULTILINE)
    assert re.search(r"^ +summary: .*\{\{ \$labels\.instance \}\}", text, re.MULTILINE)
    link = re.search(r"^ +runbook: (\S+)#(\S+)$", text, re.MULTILINE)
    assert link
    assert (ROOT / link[1]).samefile(RUNBOOK)
    assert link[2] == alert.lower()
    assert link[2] in _anchors(RUNBOOK.read_text())


def test_every_section_of_the_runbook_says_what_it_means_where_to_look_and_what_to_do() -> None:
    sections = dict(re.findall(r"^## (Dicomd\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS_OF_CONTRACT)
    for name, text in sections.items():
        assert re.search(r"\*\*Meaning\.\*\*.*\*\*Look at\*\*.*\*\*Do[.*]", text, re.DOTALL), name
        assert re.search(r"^    \S", text, re.MULTILINE), f"{name} names no command"


def test_every_link_of_the_runbook_exists() -> None:
    text = RUNBOOK.read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = OPS / file if file else RUNBOOK
        assert target.is_file(), link
        assert not anchor or anchor in _anchors(target.read_text()), link


def test_the_runbook_names_only_what_dicomd_has() -> None:
    text = RUNBOOK.read_text()
    assert set(re.findall(r"(?:^    |`)dicomd ([a-z-]+)", text, re.MULTILINE)) <= set(COMMANDS)
    identities = {message.message_id: message.value for message in Message}
    assert dict(re.findall(r"^\| `([a-z ]+)` \| `([0-9a-f]{32})`", text, re.MULTILINE)) == {
        event: identity for identity, event in identities.items()
    }
    assert set(re.findall(r"MESSAGE_ID=(\w+)", text)) <= set(identities)
    assert set(re.findall(r"\bDICOMD?_\w+", text)) <= {journal_field(key) for key in FIELDS}
    for table, key in re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]*)?`", text):
        assert key in _keys(table), f"{table}.{key} is not a key of the configuration"
    titles = {panel["title"] for panel in dashboard()["panels"]}
    for title in re.findall(r"\*([A-Z][a-z]+(?: [A-Za-z]+)+|Space)\*(?!\*)", text):
        assert title in titles, f"{title} is not a panel of the dashboard"


def test_what_the_runbook_quotes_is_what_dicomd_says() -> None:
    source = "\n".join(path.read_text() for path in sorted((ROOT / "dicomd").rglob("*.py")))
    sentences = re.findall(r"`([A-Za-z][a-z']*(?: [A-Za-z':?]+)+)`", RUNBOOK.read_text())
    programs = {"dicomd", "systemctl", "coredumpctl", "journalctl"}
    quoted = {sentence for sentence in sentences if sentence.split()[0] not in programs}
    assert len(quoted) >= 20
    for sentence in quoted:
        assert sentence in source, f"dicomd never logs {sentence!r}"


def _anchors(markdown: str) -> set[str]:
    """The anchors that GitHub makes for the headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def _keys(table: str) -> set[str]:
    """The keys of a table of the configuration, or of the entries of an array of tables."""
    default = getattr(Config(), table, None)
    if isinstance(default, tuple):
        annotation = Config.model_fields[table].annotation
        return set(annotation.__args__[0].model_fields)  # type: ignore[union-attr]
    return set(type(default).model_fields) if default is not None else set()
