"""The schema as data: the tables and keys there are, and what is known about each.

Everything here is read from the models in `schema`.
"""

from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dicomd.config.kinds import Key, TomlValue, ValueType, plain, toml
from dicomd.config.schema import Config, Table


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key. `default` and `example` are TOML texts, None where there is none; `path` has no indices."""

    path: str
    name: str
    kind: ValueType
    doc: str
    default: str | None
    example: str | None
    unset: str
    required: bool
    reload: bool

    def value(self, value: Any) -> TomlValue | None:
        """Convert a value to what TOML writes; None if the key is left out."""
        return None if value is None and self.default is None else self.kind.write(value)


@dataclass(frozen=True, slots=True)
class TableDescription:
    """One table. `repeated` means an array of tables, `[[name]]`."""

    name: str
    doc: str
    repeated: bool
    model: type[Table]
    keys: tuple[KeyDescription, ...]

    @property
    def header(self) -> str:
        """The table's header as it is written in the file."""
        return f"[[{self.name}]]" if self.repeated else f"[{self.name}]"


@cache
def tables() -> tuple[TableDescription, ...]:
    """Return all tables in the order of the schema."""
    return tuple(_table(name, info) for name, info in Config.model_fields.items())


@cache
def key(path: str) -> KeyDescription | None:
    """Return the key of this path (`limits.max_pdu`, without indices), or None."""
    return next((key for table in tables() for key in table.keys if key.path == path), None)


def unreloadable_changes(old: Config, new: Config) -> list[str]:
    """Return the paths of the keys that differ and that a reload can't apply, in the order of the schema.

    An array of tables such as `listen` is compared as a whole and reported by its name, since an added or removed
    entry has no counterpart.
    """
    changed: list[str] = []
    for table in tables():
        before, after = getattr(old, table.name), getattr(new, table.name)
        fixed = [key for key in table.keys if not key.reload]
        if table.repeated:
            if fixed and before != after:
                changed.append(table.name)
        else:
            changed.extend(key.path for key in fixed if getattr(before, key.name) != getattr(after, key.name))
    return changed


def _table(name: str, info: FieldInfo) -> TableDescription:
    repeated = get_origin(info.annotation) is tuple
    model: Any = get_args(info.annotation)[0] if repeated else info.annotation
    keys = tuple(_key(f"{name}.{field}", field, field_info) for field, field_info in model.model_fields.items())
    return TableDescription(name=name, doc=model.__doc__ or "", repeated=repeated, model=model, keys=keys)


def _key(path: str, name: str, info: FieldInfo) -> KeyDescription:
    meta = next(item for item in info.metadata if isinstance(item, Key))
    kind = next((item for item in info.metadata if isinstance(item, ValueType)), None) or _kind(info.annotation)
    absent = info.is_required() or (info.default is None and kind.write is plain)
    return KeyDescription(
        path=path,
        name=name,
        kind=kind,
        doc=meta.doc,
        default=None if absent else toml(kind.write(info.default)),
        example=meta.example or None,
        unset=meta.unset,
        required=info.is_required(),
        reload=meta.reload,
    )


def _kind(annotation: Any) -> ValueType:
    """Derive the kind of a type without one of its own: that inside an optional type, else a plain one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((item for item in arguments if isinstance(item, ValueType)), None) or _kind(arguments[0])
    if origin in {Union, UnionType}:
        return _kind(next(argument for argument in arguments if argument is not type(None)))
    if origin is Literal:
        return ValueType(" | ".join(toml(value) for value in arguments))
    if origin is tuple:
        return ValueType(f"list of {_kind(arguments[0]).name}")
    return ValueType({bool: "true | false", int: "integer", str: "text"}[annotation])
