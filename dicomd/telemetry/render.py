"""Renders log events as lines: JSON, text for a terminal, or fields of the journal.

Invariant: the three carry the same keys and values, made safe once, in `Lines`, and no line is longer than `MAX_LINE`.
An event has to cost only a few microseconds, since there is one for each instance: so there is no chain of processors,
but one function from structlog's event dictionary to what the writer accepts.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import orjson
import structlog

from dicomd.telemetry.fields import (
    FIELDS,
    MAX_FIELD,
    MAX_LINE,
    MAX_UID,
    all_safe,
    cut_front,
    journal_field,
    safe_field,
    safe_text,
    safe_value,
)
from dicomd.telemetry.journal import encode
from dicomd.telemetry.messages import Message
from dicomd.telemetry.tracebacks import describe
from dicomd.telemetry.tracebacks import render as render_traceback

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_JSON_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_INT64: Final = 2**63
_ROOMS: Final = (1000, 200, 50)
"""Bytes of JSON for each value, tried in turn when a line is too long with full values."""
_PLAIN: Final = frozenset((str,))
_HEADING: Final = ("timestamp", "level", "event", "message_id")
_JOURNAL_NAMES: Final = {key: journal_field(key) for key in FIELDS}

BOUND_FIELDS: Final = "_bound"
"""The key under which a logger carries a dictionary returned by `made_safe`, instead of its keys one by one."""
PRESANITIZED: Final = "_safe"
"""The key for a dictionary of which only the keys are checked: its values are numbers that JSON can hold, UIDs that
have been checked, and the program's own words. For the line of each instance, where every microsecond counts."""

Line = dict[str, Any]
Count = Callable[[float], None]
"""Adds a number of lines to the count of one level."""
Renderer = Callable[[Any, str, MutableMapping[str, Any]], Any]


class Lines:
    """Makes the safe, ordered dictionary of a line from structlog's event dictionary.

    ``constants`` go into each line (worker, generation); their keys are in `FIELDS`. ``counts`` maps levels to counts.
    """

    def __init__(self, constants: Mapping[str, Any], counts: Mapping[str, Count]) -> None:
        if unknown := constants.keys() - FIELDS:
            raise ValueError(f"not keys of log lines: {', '.join(sorted(unknown))}")
        self._constants = made_safe(constants)
        self._counts = counts

    def line(self, level: str, event_dict: MutableMapping[str, Any]) -> Line:
        """Return the line: timestamp, level, event and message_id first; keys with the value None are omitted."""
        self._counts[level](1)
        event = event_dict.pop("event", "")
        line: Line = {"timestamp": datetime.now(UTC), "level": level}
        if type(event) is Message:
            line["event"] = str(event)
            line["message_id"] = event.message_id
        else:
            line["event"] = safe_text(str(event))
        if self._constants:
            line.update(self._constants)
        if (bound := event_dict.pop(BOUND_FIELDS, None)) is not None:
            line.update(bound)
        if (safe := event_dict.pop(PRESANITIZED, None)) is not None:
            (line if FIELDS.issuperset(safe) else event_dict).update(safe)
        if not event_dict:
            return line
        if not FIELDS.issuperset(event_dict):
            _settle_special(event_dict)
        for key, value in event_dict.items():
            kind = type(value)
            if kind is str:
                line[key] = value if len(value) <= MAX_UID and value.isprintable() else safe_field(key, value)
            elif kind is int and -_INT64 <= value < _INT64:  # JSON readers support no more
                line[key] = value
            elif isinstance(value, BaseException):
                line.setdefault("exception_type", kind.__qualname__)
                line[key] = render_traceback(value) if key == "exception" else describe(value)
            elif value is not None:
                line[key] = safe_value(value)
        return line


def made_safe(fields: Mapping[str, Any]) -> Line:
    """Fields that many lines share, made safe once for all of them."""
    if (
        FIELDS.issuperset(fields)
        and _PLAIN.issuperset(map(type, fields.values()))
        and all_safe(fields.values(), MAX_UID)
    ):
        return dict(fields)  # the usual case: for each Association, five calls rather than a loop
    return {
        key: value if type(value) is str and len(value) <= MAX_UID and value.isprintable() else safe_field(key, value)
        for key, value in fields.items()
        if key in FIELDS and value is not None
    }


def shortened(line: Line) -> Iterator[Line]:
    """The line with less and less room for each value, and finally with only its heading."""
    for room in _ROOMS:
        yield {
            key: value
            if key in _HEADING
            else cut_front(value, room)
            if key == "exception" and isinstance(value, str)
            else safe_value(value, room)
            for key, value in line.items()
        }
    yield {key: line[key] for key in _HEADING if key in line} | {"detail": "the rest of this line was too long"}


class JsonRenderer(Lines):
    """Renders one JSON object per line, in UTF-8 with a newline; times are UTC, as RFC 3339 with microseconds."""

    def __call__(self, _logger: Any, level: str, event_dict: MutableMapping[str, Any]) -> bytes:
        """Return the line."""
        try:
            line = self.line(level, event_dict)
            rendered = orjson.dumps(line, option=_JSON_OPTIONS)
        except Exception as error:  # such as a value whose __str__ fails: a lost line must not cost a reception
            return orjson.dumps(_unreadable(error), option=_JSON_OPTIONS)
        if len(rendered) <= MAX_LINE:
            return rendered
        shorter = (orjson.dumps(tried, option=_JSON_OPTIONS) for tried in shortened(line))
        return next(tried for tried in shorter if len(tried) <= MAX_LINE)


class ConsoleRenderer(Lines):
    """Renders a line for people, coloured on a terminal, followed by the traceback if there is one."""

    def __init__(self, constants: Mapping[str, Any], counts: Mapping[str, Count], *, colors: bool) -> None:
        super().__init__(constants, counts)
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )

    def __call__(self, _logger: Any, level: str, event_dict: MutableMapping[str, Any]) -> bytes:
        """Return the line, or lines."""
        try:
            line = self.line(level, event_dict)
            rendered = self._rendered(line)
        except Exception as error:
            return self._rendered(_unreadable(error))
        if len(rendered) <= MAX_LINE:
            return rendered
        return next(tried for tried in map(self._rendered, shortened(line)) if len(tried) <= MAX_LINE)

    def _rendered(self, line: Line) -> bytes:
        said = {key: spoken(value) if isinstance(value, dict | list) else value for key, value in line.items()}
        said.pop("message_id", None)
        said["timestamp"] = line["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return f"{self._render(None, line['level'], said)}\n".encode()


class JournalRenderer(Lines):
    """Renders fields for the journal: MESSAGE for people, and each key as a field of its own."""

    def __call__(
        self, _logger: Any, level: str, event_dict: MutableMapping[str, Any]
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the fields as the writer's positional arguments, and no keyword arguments."""
        try:
            line = self.line(level, event_dict)
            fields = self._fields(line)
        except Exception as error:
            return tuple(self._fields(_unreadable(error))), {}
        if _may_be_too_long(fields) and len(encode(fields)) > MAX_LINE:
            fields = next(tried for tried in map(self._fields, shortened(line)) if len(encode(tried)) <= MAX_LINE)
        return tuple(fields), {}

    def _fields(self, line: Line) -> list[str]:
        fields = [f"PRIORITY={_PRIORITY[line['level']]}", "SYSLOG_IDENTIFIER=dicomd"]
        if (message_id := line.get("message_id")) is not None:
            fields.append(f"MESSAGE_ID={message_id}")
        words = [line["event"]]
        for key, value in islice(line.items(), 3 if message_id is None else 4, None):  # after those of `_HEADING`
            text = value if type(value) is str else orjson.dumps(value).decode()
            fields.append(f"{_JOURNAL_NAMES[key]}={text}")
            if key != "exception" and key not in self._constants:
                words.append(f"{key.removeprefix('dicom_')}={spoken(value)}")
        message = f"MESSAGE={' '.join(words)}"
        fields.append(message if len(message) * 4 <= MAX_FIELD else _cut_message(message))
        return fields


def _may_be_too_long(fields: Sequence[str]) -> bool:
    """Whether measuring them is worthwhile: a character has at most four bytes, and a field adds at most ten."""
    return sum(map(len, fields)) * 4 + len(fields) * 10 > MAX_LINE


def _cut_message(message: str) -> str:
    """Cut the text for people at the limit of a field; what is missing is in the other fields."""
    data = message.encode()
    return message if len(data) <= MAX_FIELD else data[: MAX_FIELD - len("…".encode())].decode(errors="ignore") + "…"


def spoken(value: Any) -> str:
    """A safe value as people read it: ``1.2, 1.3`` for a list, ``id=1 name=CT`` for an object, ``;`` between them."""
    if isinstance(value, dict):
        pairs = ((key, spoken(item)) for key, item in value.items())
        return " ".join(f"{key}={text}" for key, text in pairs if text)
    if isinstance(value, list):
        return ("; " if any(isinstance(item, dict) for item in value) else ", ").join(map(spoken, value))
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _settle_special(event_dict: MutableMapping[str, Any]) -> None:
    """Turn ``exc_info`` into ``exception``; drop the keys that may not be written, and name them."""
    exc_info = event_dict.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        event_dict["exception"] = error
    unknown = sorted(set(event_dict) - FIELDS)
    for key in unknown:
        del event_dict[key]
    if unknown:
        event_dict["unknown_keys"] = unknown


def _unreadable(error: Exception) -> Line:
    return {
        "timestamp": datetime.now(UTC),
        "level": "error",
        "event": "log record unreadable",
        "exception_type": type(error).__qualname__,
    }
