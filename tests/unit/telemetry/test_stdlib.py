"""Log records of libraries and uncaught exceptions become lines of the log."""

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pynetdicom  # noqa: F401 - because it sets up its loggers

from dicomd.telemetry.stdlib import StructlogHandler

Lines = Callable[[], list[dict[str, Any]]]


def test_warnings_of_libraries_are_lines(json_log: Lines) -> None:
    logging.getLogger("pynetdicom.acse").warning("peer %s did\n%d", "CT1", 5)
    (line,) = json_log()
    assert line["level"] == "warning"
    assert line["event"] == "library message"
    assert line["logger"] == "pynetdicom.acse"
    assert line["detail"] == r"peer CT1 did\n5"


def test_libraries_information_is_none(json_log: Lines) -> None:
    logging.getLogger("pynetdicom.acse").info("hello")
    logging.getLogger("prometheus_client").debug("hello")
    assert json_log() == []


def test_what_pydicom_says_is_withheld_since_it_quotes_data(json_log: Lines) -> None:
    logging.getLogger("pydicom").error("invalid value for PN: DOE^JOHN")
    (line,) = json_log()
    assert "DOE" not in orjson.dumps(line).decode()
    assert line["module"].startswith("test_stdlib:")


def test_a_record_that_can_t_be_formatted_costs_nothing(json_log: Lines) -> None:
    StructlogHandler().handle(logging.LogRecord("some.library", logging.ERROR, "x.py", 1, "%d %d", ("x",), None))
    assert json_log()[0]["detail"] == "%d %d"


def test_exceptions_nobody_caught_are_lines_of_json() -> None:
    script = """
import threading, warnings
from dicomd.telemetry.logs import configure_logging
from dicomd.telemetry.stdlib import route_uncaught
patient = "DOE^JOHN"  # tracebacks show the lines of the source, but not this one
configure_logging("json", "info")
route_uncaught()
thread = threading.Thread(target=lambda: {}[patient], name="association")
thread.start(); thread.join()
warnings.warn(patient)
open("/nonexistent/" + patient)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    lines = [orjson.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["internal error", "library message", "internal error"]
    assert [line.get("exception_type") for line in lines] == ["KeyError", "UserWarning", "FileNotFoundError"]
    assert lines[0]["thread"] == "association"
    assert lines[0]["exception"].rstrip().endswith("KeyError")
    assert b"DOE" not in done.stderr
