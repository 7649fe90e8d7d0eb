"""The README and the change log tell newcomers the truth."""

import re
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry

import dicomd
from dicomd.cli.main import COMMANDS, main
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from tests.support.configuration import parse_config
from tests.unit.docs.markdown import DOCUMENTS, ROOT, blocks, rows, section, spans

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

COMMAND = re.compile(r"(?<![\w/.-])(?:\.venv/bin/)?dicomd ([a-z][a-z-]*)((?: [^\n`]*)?)")


def commands(text: str) -> set[tuple[str, str]]:
    """(command, its arguments) of each `dicomd …` in code spans and at the prompts in console blocks."""
    prompts = [line[2:] for block in blocks(text) for line in block.text.splitlines() if line.startswith("$ ")]
    return {found for code in [*spans(text), *prompts] if (match := COMMAND.match(code)) for found in [match.groups()]}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_that_is_named_exists(document: Path) -> None:
    for command, arguments in commands(document.read_text(encoding="utf-8")):
        assert command in COMMANDS, f"dicomd {command}"
        found = main.get_command(click.Context(main), command)
        assert found is not None
        known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", arguments)) <= known, f"dicomd {command}{arguments}"


def test_the_table_of_commands_is_complete() -> None:
    named = [row[0].strip("`") for row in rows(section(README, "Your own configuration"))]
    assert named == [f"dicomd {command}" for command in COMMANDS]


def test_the_programs_it_starts_are_there() -> None:
    scripts = set(re.findall(r"\./scripts/\w+", README))
    assert {"./scripts/run", "./scripts/test"} <= scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_the_configuration_it_shows_is_valid() -> None:
    first, added = [block.text for block in blocks(README) if block.language == "toml"]
    assert list(parse_config(first).dicomd.ae_titles) == ["ARCHIVE"]
    config = parse_config(first + added)
    assert [(listener.name, listener.tls) for listener in config.listen] == [("dicom", False), ("dicom-tls", True)]
    assert [peer.name for peer in config.peers] == ["ct1"]


@pytest.mark.usefixtures("metric_files")
def test_the_metrics_it_shows_exist() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="0", listeners=["dicom"])
    metrics.sample_store(accepting=True, avail_bytes=1, size_bytes=1, files_avail=1)
    known = {sample.name for family in registry.collect() for sample in family.samples}
    shown = re.findall(r"^(dicomd_\w+) \d", "\n".join(block.text for block in blocks(README)), re.MULTILINE)
    assert shown
    assert set(shown) <= known


def test_the_log_lines_it_shows_are_events() -> None:
    shown = re.findall(r"\[info +\] ([a-z ]+?) {2,}", README)
    assert shown
    assert set(shown) <= {str(message) for message in Message}


def test_what_the_first_try_prints_is_what_the_readme_says() -> None:
    script = (ROOT / "scripts/run").read_text(encoding="utf-8")
    (shown,) = [block.text for block in blocks(README) if block.text.startswith("dicomd receives")]
    for line in shown.splitlines():
        for piece in filter(None, re.split(r"…\S*", line)):
            assert piece.strip() in script


def test_the_change_log_begins_with_this_version() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0].removeprefix("Unreleased: ").split()[0] == dicomd.__version__
