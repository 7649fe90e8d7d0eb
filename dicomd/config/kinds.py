"""The types of configuration keys: how each is read, how it is written back, and what people call it.

pydantic reads a value with the validator in the annotation of its type. The `ValueType` in the same annotation names
the type for people and writes the value back to TOML. A `Key` adds what is particular to one key: its description, and
whether a reload applies it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from dicomd.config import contexts, rules, units
from dicomd.config.units import Address, HostPort, Network

TomlValue = str | int | float | bool | list[Any]


def plain(value: Any) -> TomlValue:
    """Convert a value without a unit to what TOML writes."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value)


def toml(value: TomlValue) -> str:
    """Format a TOML value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # a JSON string is a TOML basic string, except that TOML requires DEL to be escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return repr(value)


def _or_off(value: Any) -> TomlValue:
    return "" if value is None else plain(value)


@dataclass(frozen=True, slots=True)
class ValueType:
    """What people call a type, its unit, and how its values are written."""

    name: str
    unit: str = ""
    write: Callable[[Any], TomlValue] = plain


@dataclass(frozen=True, slots=True)
class Key:
    """Documents one key. `example` is a TOML value, given where there is no default; `unset` is what absence means."""

    doc: str
    reload: bool = True
    example: str = ""
    unset: str = ""


Duration = Annotated[
    float, BeforeValidator(units.parse_duration), ValueType("duration", "seconds", units.format_duration)
]
Size = Annotated[int, BeforeValidator(units.parse_size), ValueType("size", "bytes", units.format_size)]
Rate = Annotated[float, BeforeValidator(units.parse_rate), ValueType("rate", "bytes per second", units.format_rate)]
ListenAddress = Annotated[Address, PlainValidator(units.parse_address), ValueType("IP address and port")]
RemoteAddress = Annotated[
    HostPort | None, PlainValidator(units.parse_host_port_or_off), ValueType("host and port", write=_or_off)
]
Networks = Annotated[
    tuple[Annotated[Network, PlainValidator(units.parse_network)], ...],
    ValueType("list of networks (CIDR) or addresses"),
]
ListenerName = Annotated[str, BeforeValidator(rules.listener_name), ValueType("name")]
PeerName = Annotated[str, BeforeValidator(rules.peer_name), ValueType("name")]
AETitles = Annotated[tuple[Annotated[str, BeforeValidator(rules.ae_title)], ...], ValueType("list of AE Titles")]
CertificateNames = Annotated[
    tuple[Annotated[str, BeforeValidator(rules.certificate_name)], ...], ValueType("list of certificate names")
]
HostNames = Annotated[tuple[Annotated[str, BeforeValidator(rules.host_name)], ...], ValueType("list of host names")]
FilePath = Annotated[Path, PlainValidator(rules.path), ValueType("path")]
Folder = Annotated[Path | None, PlainValidator(rules.folder_or_off), ValueType("path", write=_or_off)]
Layout = Annotated[str, BeforeValidator(rules.layout), ValueType("path with placeholders")]
SopClasses = Annotated[
    tuple[Annotated[str, BeforeValidator(contexts.sop_class)], ...], ValueType("list of groups, keywords or UIDs")
]
TransferSyntaxes = Annotated[
    tuple[Annotated[str, BeforeValidator(contexts.transfer_syntax)], ...], ValueType("list of groups, keywords or UIDs")
]
