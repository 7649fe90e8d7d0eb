"""A fixture that logs to a file, and restores all logging settings afterwards."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from dicomd.telemetry import logs
from dicomd.telemetry.stdlib import StructlogHandler

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _log_put_back() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    writer, logs._writer = logs._writer, None  # noqa: SLF001 - a process never takes its log back; only tests do
    if writer is not None:
        writer.close()
    structlog.reset_defaults()
    for handler in list(root.handlers):
        if isinstance(handler, StructlogHandler):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def json_log(tmp_path: Path) -> Iterator[Lines]:
    """Log as JSON into a file; return a function that reads the lines so far."""
    path = tmp_path / "log.json"
    with path.open("w") as stream:
        logs.configure_logging("json", "debug", stream)
        yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
