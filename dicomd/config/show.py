"""Writes the effective configuration as TOML.

Invariant: the text loads back to an equal `Config`. It contains no secret: of the TLS key it has only the path.
"""

from dicomd.config.keys import TableDescription, tables
from dicomd.config.kinds import toml
from dicomd.config.schema import Config, Table


def to_toml(config: Config) -> str:
    """Write every key that has a value, defaults filled in, in the order of the schema."""
    blocks: list[str] = []
    for table in tables():
        value = getattr(config, table.name)
        entries: tuple[Table, ...] = value if table.repeated else (value,)
        blocks.extend(_block(table, entry) for entry in entries)
    return "\n".join(blocks)


def _block(table: TableDescription, entry: Table) -> str:
    lines = [table.header]
    for key in table.keys:
        value = key.value(getattr(entry, key.name))
        if value is not None:
            lines.append(f"{key.name} = {toml(value)}")
    return "\n".join(lines) + "\n"
