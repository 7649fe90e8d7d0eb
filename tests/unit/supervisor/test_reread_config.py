"""Which settings a reload applies from a new configuration, and which it leaves unchanged."""

from __future__ import annotations

from pathlib import Path

from dicomd.config import Config, unreloadable_changes
from dicomd.config.keys import tables
from dicomd.supervisor import reread_config
from dicomd.supervisor.reread_config import keep_unreloadable
from tests.support.configuration import parse_config

NEW = """
[dicomd]
workers = 3
runtime_dir = "/elsewhere"
[[listen]]
name = "other"
address = "127.0.0.1:4242"
[storage]
root = "/other"
durability = "none"
[contexts]
sop_classes = ["CTImageStorage"]
[limits]
associations = 3
[http]
address = "127.0.0.1:4243"
[log]
format = "json"
level = "error"
"""


def test_every_key_is_either_kept_or_taken() -> None:
    old, new = Config(), parse_config(NEW)
    kept = keep_unreloadable(old, new)
    for table in tables():
        if table.repeated:
            continue
        for key in table.keys:
            source = new if key.reload else old
            assert getattr(getattr(kept, table.name), key.name) == getattr(getattr(source, table.name), key.name)
    assert kept.listen == old.listen
    assert unreloadable_changes(old, kept) == []


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "dicomd.toml"
    root = f'[storage]\nroot = "{tmp_path}"\n'
    running = parse_config(root)
    file.write_text(f"{root}[limits]\nassociations = 5\n[http]\naddress = '127.0.0.1:5'\n")
    reading = reread_config.reread(file, running)
    assert reading.config is not None
    assert reading.config.limits.associations == 5
    assert reading.config.http == running.http
    assert reading.pending == ("http.address",)
    file.write_text(f"{root}[limits]\nassociations = 5\nconnections = 0\nnonsense = 1\n")
    reading = reread_config.reread(file, running)
    assert reading.config is None
    assert len(reading.errors) == 2
    assert reread_config.reread(tmp_path / "missing", running).config is None
