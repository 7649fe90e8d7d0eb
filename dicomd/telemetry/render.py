"""Log events as lines: JSON, for a terminal, or as fields of the journal.

The rule: the three carry the same keys and values, made safe once, in `Lines`. One event costs a few microseconds,
since there is one for each instance: no chain of processors, but one function from structlog's event dictionary to
what the writer takes.
"""

import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog

from dicomd.telemetry.fields import FIELDS, journal_field, safe_text, safe_value
from dicomd.telemetry.messages import Message
from dicomd.telemetry.tracebacks import describe
from dicomd.telemetry.tracebacks import render as render_traceback

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_JSON_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_INT64: Final = 2**63
_JOURNAL_NAMES: Final = {key: journal_field(key) for key in FIELDS}

BOUND: Final = "_bound"
"""The key under which a logger carries a dictionary that `made_safe` has returned, instead of its keys one by one."""
SAFE: Final = "_safe"
"""The key for a dictionary of which only the keys are looked at: its values are numbers that JSON can hold, UIDs that
have been checked, and the program's own words. For the line of each instance, where every microsecond counts."""

Line = dict[str, Any]
Count = Callable[[float], None]
"""Counts so many lines of a level."""
Renderer = Callable[[Any, str, MutableMapping[str, Any]], Any]


class Lines:
    """Makes the safe, ordered dictionary of a line out of structlog's event dictionary.

    ``constants`` go into each line (worker, generation), and are keys of `FIELDS`; ``counts`` has a level's count.
    """

    def __init__(self, constants: Mapping[str, Any], counts: Mapping[str, Count]) -> None:
        if unknown := constants.keys() - FIELDS:
            raise ValueError(f"no keys of log lines: {', '.join(sorted(unknown))}")
        self._constants = made_safe(constants)
        self._counts = counts

    def line(self, level: str, event_dict: MutableMapping[str, Any]) -> Line:
        """timestamp, level, event and message_id first; keys with the value None are left out."""
        self._counts[level](1)
        event = event_dict.pop("event", "")
        line: Line = {"timestamp": datetime.now(UTC), "level": level}
        if type(event) is Message:
            line["event"] = event._value_  # the property `value` is a call
            line["message_id"] = event.message_id
        else:
            line["event"] = safe_text(str(event))
        if self._constants:
            line.update(self._constants)
        if (bound := event_dict.pop(BOUND, None)) is not None:
            line.update(bound)
        if (safe := event_dict.pop(SAFE, None)) is not None:
            (line if FIELDS.issuperset(safe) else event_dict).update(safe)
        if not event_dict:
            return line
        if not FIELDS.issuperset(event_dict):
            _settle_special(event_dict)
        for key, value in event_dict.items():
            kind = type(value)
            if kind is str:
                line[key] = value if len(value) <= 64 and value.isprintable() else safe_text(value)
            elif kind is int and -_INT64 <= value < _INT64:  # JSON's readers know no more
                line[key] = value
            elif isinstance(value, BaseException):
                line.setdefault("exception_type", kind.__qualname__)
                line[key] = render_traceback(value) if key == "exception" else describe(value)
            elif value is not None:
                line[key] = safe_value(value)
        return line


def made_safe(fields: Mapping[str, Any]) -> Line:
    """What many lines say, made safe once for all of them."""
    return {key: safe_value(value) for key, value in fields.items() if key in FIELDS and value is not None}


class JsonRenderer(Lines):
    """One JSON object a line, UTF-8, with the newline; times in UTC as RFC 3339 with microseconds."""

    def __call__(self, _logger: Any, level: str, event_dict: MutableMapping[str, Any]) -> bytes:
        """The line."""
        try:
            return orjson.dumps(self.line(level, event_dict), option=_JSON_OPTIONS)
        except Exception as error:  # a value with a __str__ that fails: a lost line must not cost a reception
            return orjson.dumps(_unreadable(error), option=_JSON_OPTIONS)


class ConsoleRenderer(Lines):
    """A line a person reads, coloured on a terminal; the traceback, if any, below it."""

    def __init__(self, constants: Mapping[str, Any], counts: Mapping[str, Count], *, colors: bool) -> None:
        super().__init__(constants, counts)
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )

    def __call__(self, logger: Any, level: str, event_dict: MutableMapping[str, Any]) -> bytes:
        """The line, or lines."""
        try:
            line = self.line(level, event_dict)
        except Exception as error:
            line = _unreadable(error)
        line.pop("message_id", None)
        line["timestamp"] = line["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for key, value in line.items():
            if isinstance(value, dict | list):
                line[key] = spoken(value)
        return f"{self._render(logger, level, line)}\n".encode()


class JournalRenderer(Lines):
    """Fields for the journal: MESSAGE for people, and each key as a field of its own."""

    def __call__(
        self, _logger: Any, level: str, event_dict: MutableMapping[str, Any]
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The fields as the writer's positional arguments, and no others."""
        try:
            line = self.line(level, event_dict)
        except Exception as error:
            line = _unreadable(error)
        del line["timestamp"], line["level"]
        event = line.pop("event")
        fields = [f"PRIORITY={_PRIORITY[level]}", "SYSLOG_IDENTIFIER=dicomd"]
        if (message_id := line.pop("message_id", None)) is not None:
            fields.append(f"MESSAGE_ID={message_id}")
        words = [event]
        for key, value in line.items():
            text = value if type(value) is str else orjson.dumps(value).decode()
            fields.append(f"{_JOURNAL_NAMES[key]}={text}")
            if key != "exception" and key not in self._constants:
                words.append(f"{key.removeprefix('dicom_')}={spoken(value)}")
        fields.append(f"MESSAGE={' '.join(words)}")
        return tuple(fields), {}


def spoken(value: Any) -> str:
    """A safe value as people read it: ``1.2, 1.3`` for a list, ``id=1 name=CT`` for an object, ``;`` between those."""
    if isinstance(value, dict):
        pairs = ((key, spoken(item)) for key, item in value.items())
        return " ".join(f"{key}={text}" for key, text in pairs if text)
    if isinstance(value, list):
        return ("; " if any(isinstance(item, dict) for item in value) else ", ").join(map(spoken, value))
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _settle_special(event_dict: MutableMapping[str, Any]) -> None:
    """Turn ``exc_info`` into ``exception``; drop and name the keys that may not be written."""
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
