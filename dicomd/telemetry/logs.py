"""Sets up the log: structlog, one renderer, one writer.

It has to be configured once per process, after the fork and before a thread starts. Use::

    log = get_logger()                                  # at module level
    log = bound_logger({"dicom_calling_aet": "CT1"})    # once per Association: the cheapest per line
    log.info(Message.INSTANCE_STORED, dicom_status="0000")

Keys are those of `dicomd.telemetry.fields`; an event is a `Message` or a constant text, never built from data.

In a process that strangers can reach, a line is written only if its host's budget has room (`telemetry.budget`). The
caller marks a line that has cost its sender more than it costs us with `UNBOUNDED`, and passes fields that are costly
to compute as a function, with `LATER`.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from dicomd.addresses import host_of
from dicomd.telemetry import journal
from dicomd.telemetry.budget import LineBudget
from dicomd.telemetry.cells import adder
from dicomd.telemetry.journal import JournalWriter, encode
from dicomd.telemetry.labels import UNKNOWN_PEER
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.render import (
    BOUND_FIELDS,
    LEVELS,
    ConsoleRenderer,
    Count,
    JournalRenderer,
    JsonRenderer,
    Renderer,
    made_safe,
)
from dicomd.telemetry.stdlib import route_stdlib
from dicomd.telemetry.writer import DescriptorWriter, LineWriter

Format = Literal["auto", "journald", "console", "json"]
Chosen = Literal["journald", "console", "json"]
Logger = FilteringBoundLogger
"""What `get_logger` and `bound_logger` return."""

UNBOUNDED: Final = "_unbounded"
"""The key, with any value, for a line that no budget limits: it has cost its sender more than it costs here."""
LATER: Final = "_later"
"""The key for a function that returns further fields, called only if the line is written."""

_writer: LineWriter | None = None
_class: type[Any] | None = None
"""What is configured: the class of bound loggers, which write to `_writer`."""


def configure_logging(
    format: Format = "auto",  # noqa: A002 - the configuration's own word
    level: str = "info",
    stream: TextIO | None = None,
    *,
    metrics: Metrics | None = None,
    constants: Mapping[str, Any] | None = None,
    budget: LineBudget | None = None,
) -> Chosen:
    """Configure the log of this process and return the format chosen.

    ``stream`` has a descriptor, and is sys.stderr by default; lines bypass it and go to a duplicate of its descriptor.
    ``constants`` are keys of every line (``dicomd_worker``, ``dicomd_generation``). ``metrics`` counts the lines.
    ``budget`` limits what hosts can make this process log; without one, nothing does. Loggers bound earlier keep the
    old renderer, and lose their lines.

    "auto" means "journald" if stderr is the journal's. If there is no journal, "journald" is treated as "auto", and a
    line says so: a daemon that refused to start because of that would help nobody. Raises ValueError for an unknown
    level or a closed stream, and OSError for a stream without a descriptor.
    """
    global _writer, _class
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    stream = sys.stderr if stream is None else stream
    chosen = _choose(format, stream)
    counts, count_lost, count_suppressed = _counters(metrics)
    renderer: Renderer
    writer: LineWriter
    if chosen == "journald":
        entries = JournalRenderer(constants or {}, counts)
        renderer = entries

        def notice_entry(lost: int) -> tuple[str, ...]:
            return entries(None, "warning", _lost(lost))[0]

        writer = JournalWriter(notice=notice_entry, on_lost=count_lost)
    else:
        lines: JsonRenderer | ConsoleRenderer
        if chosen == "json":
            lines = JsonRenderer(constants or {}, counts)
        else:
            lines = ConsoleRenderer(constants or {}, counts, colors=stream.isatty())
        renderer = lines

        def notice(lost: int) -> bytes:
            return lines(None, "warning", _lost(lost))

        writer = DescriptorWriter(stream.fileno(), notice=notice, on_lost=count_lost)

    bound_class = _logger_class(level, renderer, budget, count_suppressed)
    structlog.configure(
        processors=[renderer],
        wrapper_class=bound_class,
        context_class=dict,
        logger_factory=lambda *_: writer,
        # Loggers at module level would otherwise keep the set-up of their first use, from before a fork. The lines
        # that count come from bound loggers, which are equally fast either way.
        cache_logger_on_first_use=False,
    )
    route_stdlib()
    previous, _writer, _class = _writer, writer, bound_class
    if previous is not None:
        previous.close()
    if format == "journald" and chosen != "journald":
        get_logger().warning("no journal found", detail=f'log.format = "journald", but {journal.SOCKET} is no socket')
    return chosen


def get_logger() -> Logger:
    """A logger that looks up the configuration for each line; `bound_logger` returns the fast kind."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def bound_logger(fields: Mapping[str, Any]) -> Logger:
    """A logger whose lines all begin with ``fields``, which are made safe here once instead of for each line."""
    bound = {BOUND_FIELDS: made_safe(fields)}
    if _writer is None or _class is None:
        return cast("FilteringBoundLogger", structlog.get_logger().bind(**bound))
    # What `bind` would return, which looks up all that is configured each time.
    return cast("FilteringBoundLogger", _class(_writer, (), bound))


def _choose(format: Format, stream: TextIO) -> Chosen:  # noqa: A002
    wanted = format == "journald" or (format == "auto" and journal.is_stream(stream.fileno()))
    if wanted and journal.is_there():
        return "journald"
    if format in ("console", "json"):
        return format
    return "console" if stream.isatty() else "json"


def _lost(count: int) -> dict[str, Any]:
    return {"event": "log lines lost", "count": count}


def _logger_class(
    level: str, render: Renderer, budget: LineBudget | None, count_suppressed: Callable[[], None]
) -> type[Any]:
    """A structlog filtering logger that asks the host's budget, and calls its processor, `render`, directly.

    The line of each instance is an unbounded one. Written this way, it needs five calls fewer, a quarter of its time.
    """
    filtering: type[Any] = structlog.make_filtering_bound_logger(level)

    class BoundedLogger(filtering):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str | None = None, **fields: Any) -> None:
            entry = self._context | fields
            entry["event"] = event
            later = entry.pop(LATER, None)
            if entry.pop(UNBOUNDED, None) is not None or budget is None:
                self._write(render(None, method_name, entry | later() if later else entry))
                return
            host, peer = _origin(entry)
            if budget.is_spent(host, peer, str(event)):
                budget.leave_out(host, str(event))
                count_suppressed()
                return
            line = render(None, method_name, entry | later() if later else entry)
            size = len(line) if type(line) is bytes else len(encode(line[0]))
            if budget.spend(host, peer, size, str(event)):
                self._write(line)
            else:
                count_suppressed()

        def _write(self, line: Any) -> None:
            if type(line) is bytes:
                self._logger.msg(line)
            else:
                self._logger.msg(*line[0])

    if LEVELS.index(level) > LEVELS.index("info"):
        return BoundedLogger

    class DirectLogger(BoundedLogger):
        def info(self, event: str, **fields: Any) -> None:
            if UNBOUNDED not in fields:
                self._proxy_to_logger("info", event, **fields)
                return
            entry = self._context | fields
            del entry[UNBOUNDED]
            entry["event"] = event
            line = render(None, "info", entry)
            if type(line) is bytes:
                self._logger.info(line)
            else:
                self._logger.info(*line[0])

    return DirectLogger


def _origin(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The host and the peer whose budgets the line is charged to; for a line that concerns none, the event and ""."""
    said = entry.get(BOUND_FIELDS) or entry
    address = said.get("dicom_peer_address") or entry.get("dicom_peer_address")
    if not address:
        return f"({entry['event']})", ""
    return host_of(str(address)), str(said.get("dicom_peer", UNKNOWN_PEER))


def report_suppressed(budget: LineBudget, *, at_once: bool = False) -> None:
    """Log how many lines were left out since the last report, by all processes that share the budget.

    Must be called at least once a second. A host has at most one such line per second, except with ``at_once``.
    """
    for left_out in budget.take_left_out(at_once=at_once):
        fields: dict[str, Any] = {"count": sum(left_out.events.values()), "suppressed": left_out.events}
        if left_out.hosts != 1:
            fields["detail"] = f"of {left_out.hosts or 'many'} other addresses"
        elif not left_out.host.startswith("("):
            fields["dicom_peer_address"] = left_out.host
        get_logger().warning("log lines suppressed", **fields, **{UNBOUNDED: True})


def _counters(metrics: Metrics | None) -> tuple[dict[str, Count], Callable[[], None], Callable[[], None]]:
    if metrics is None:
        return dict.fromkeys(LEVELS, lambda _amount: None), lambda: None, lambda: None
    counts: dict[str, Count] = {level: adder(metrics.log_records.labels(level)) for level in LEVELS}
    return counts, metrics.log_records_lost.inc, metrics.log_records_suppressed.inc
