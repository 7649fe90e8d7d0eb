"""The generated files agree with the schema. After a change of the schema, run:

python -m dicomd describe-config --format toml > etc/dicomd.toml
python -m dicomd describe-config --format markdown > docs/configuration.md
"""

import re
from pathlib import Path

import pytest

from dicomd.config import Config, describe, load_config
from dicomd.config.keys import tables
from tests.support.configuration import parse_config

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "form", "text"),
    [
        ("etc/dicomd.toml", "toml", describe.as_toml()),
        ("docs/configuration.md", "markdown", describe.as_markdown()),
    ],
)
def test_generated_file_is_current(file: str, form: str, text: str) -> None:
    command = f"python -m dicomd describe-config --format {form} > {file}"
    assert (ROOT / file).read_text(encoding="utf-8") == text, f"regenerate it: {command}"


def test_shipped_file_changes_nothing() -> None:
    assert load_config(ROOT / "etc/dicomd.toml") == Config()


def test_shipped_file_names_every_key_with_a_value_that_is_accepted() -> None:
    text = (ROOT / "etc/dicomd.toml").read_text(encoding="utf-8")
    config = parse_config(re.sub(r"(?m)^#(?=\[|\w+ = )", "", text))
    assert config.peers[0].name == "ct1"
    for table in tables():
        entry = getattr(config, table.name)
        entry = entry[0] if table.repeated else entry
        assert entry.model_fields_set == {key.name for key in table.keys}


def test_configuration_of_the_first_try_is_reachable_from_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(ROOT / "etc/dicomd.run.toml")
    assert [str(listener.address) for listener in config.listen] == ["127.0.0.1:11112"]
    assert str(config.http.address) == "127.0.0.1:11113"
    assert config.storage.root == tmp_path / "var/store"


def test_text_and_reference_describe_every_key() -> None:
    text, reference = describe.as_text(), describe.as_markdown()
    for table in tables():
        assert table.header in text
        assert f"## `{table.header}`" in reference
        for key in table.keys:
            assert f"  {key.name}: " in text
            assert f"| `{key.name}` |" in reference
