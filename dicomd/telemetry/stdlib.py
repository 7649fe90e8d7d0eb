"""Turns messages of libraries (through the standard library's logging) and uncaught exceptions into dicomd's own lines.

Invariant: a library's text may quote a data set, as pydicom's warnings do, so for libraries that read data only the
place of the message is logged.
"""

import logging
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, Final

import structlog

from dicomd.telemetry.fields import safe_text
from dicomd.telemetry.messages import Message

_QUOTES_DATA: Final = ("pydicom", "py.warnings")


class StructlogHandler(logging.Handler):
    """Passes records of level warning and above on to structlog."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log: Any = structlog.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record. Never raises, as the library that logs is in the middle of its work."""
        detail: str | None = None
        if not record.name.startswith(_QUOTES_DATA):
            try:
                detail = safe_text(record.getMessage())
            except Exception:  # format string and arguments that don't match
                detail = safe_text(str(record.msg))
        self._log.log(
            _level(record.levelno),
            "library message",
            logger=record.name,
            detail=detail,
            module=f"{record.module}:{record.lineno}",
            exc_info=record.exc_info,
        )


def route_stdlib() -> None:
    """Make the root logger pass warnings and errors on to structlog. Replaces the handler of an earlier call."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, StructlogHandler):
            root.removeHandler(handler)
    root.addHandler(StructlogHandler())
    root.setLevel(logging.WARNING)


def route_uncaught() -> None:
    """Log warnings and uncaught exceptions from now on, until the process ends. For `serve`."""
    log = structlog.get_logger()

    def uncaught(_type: type[BaseException], error: BaseException, _tb: TracebackType | None) -> None:
        if not isinstance(error, KeyboardInterrupt):
            log.critical(Message.INTERNAL_ERROR, module="dicomd", exc_info=error)

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            log.critical(Message.INTERNAL_ERROR, thread=args.thread and args.thread.name, exc_info=args.exc_value)

    def warned(_message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        log.warning(
            "library message", logger="py.warnings", exception_type=category.__name__, module=f"{filename}:{lineno}"
        )

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    warnings.showwarning = warned  # type: ignore[assignment]  # same parameters, other names


def _level(levelno: int) -> int:
    """The record's level, as one of the three structlog levels that are passed on."""
    return max(logging.WARNING, min(logging.CRITICAL, levelno // 10 * 10))
