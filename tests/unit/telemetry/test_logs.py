"""The log as operators see it: as JSON, on a terminal, and in the journal."""

import json
import os
import pty
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dicomd.telemetry.logs import configure_logging, get_logger
from dicomd.telemetry.messages import Message
from dicomd.telemetry.metrics import Metrics
from dicomd.telemetry.render import PRESANITIZED

pytestmark = pytest.mark.usefixtures("metric_files")

Lines = Callable[[], list[dict[str, Any]]]
STORED = {
    "dicom_association_id": "a1",
    "dicom_calling_aet": "CT1",
    "dicom_sop_instance_uid": "1.2.3",
    "dicom_status": "0000",
    "dicom_bytes": 524288,
    "dicom_duration_usec": 3123,
}


def test_a_line_is_one_json_object_with_its_keys_in_order(json_log: Lines) -> None:
    get_logger().bind(dicom_peer="ct1").info(Message.INSTANCE_STORED, **STORED)
    (line,) = json_log()
    assert list(line)[:5] == ["timestamp", "level", "event", "message_id", "dicom_peer"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "event": "instance stored",
        "message_id": Message.INSTANCE_STORED.message_id,
        "dicom_peer": "ct1",
        **STORED,
    }


def test_wire_values_are_safe_and_absent_ones_left_out(json_log: Lines) -> None:
    get_logger().warning("x", dicom_calling_aet="CT\n\x1b[2J", dicom_called_aet=None, contexts=["a\x00", "b" * 9999])
    (line,) = json_log()
    assert line["dicom_calling_aet"] == r"CT\n\x1b[2J"
    assert "dicom_called_aet" not in line
    assert line["contexts"][0] == r"a\x00"
    assert len(line["contexts"][1]) == 512


def test_a_key_that_isn_t_listed_is_named_and_not_written(json_log: Lines) -> None:
    get_logger().info("x", patient_name="DOE^JOHN", dicom_status="0000")
    (line,) = json_log()
    assert line["unknown_keys"] == ["patient_name"]
    assert "DOE" not in json.dumps(line)
    assert line["dicom_status"] == "0000"


def test_values_that_are_safe_already_are_not_looked_at_but_their_keys_are(json_log: Lines) -> None:
    get_logger().info(Message.INSTANCE_STORED, **{PRESANITIZED: STORED})
    get_logger().info("x", **{PRESANITIZED: {"patient_name": "DOE^JOHN", "dicom_status": "0000"}}, dicom_bytes=1)
    stored, other = json_log()
    assert {key: stored[key] for key in STORED} == STORED
    assert other["unknown_keys"] == ["patient_name"]
    assert "DOE" not in json.dumps(other)
    assert (other["dicom_status"], other["dicom_bytes"]) == ("0000", 1)


def test_an_exception_carries_its_type_and_traceback(json_log: Lines) -> None:
    try:
        {}["DOE^JOHN"[:3]]
    except KeyError:
        get_logger().exception(Message.INTERNAL_ERROR, module="dicomd.net.association")
    (line,) = json_log()
    assert line["level"] == "error"
    assert line["exception_type"] == "KeyError"
    assert line["module"] == "dicomd.net.association"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "'DOE'" not in line["exception"]


def test_an_exception_may_be_given_as_a_value(json_log: Lines) -> None:
    try:
        int("DOE")
    except ValueError as error:
        get_logger().error(Message.INTERNAL_ERROR, module="store", exception=error)
        get_logger().error("x", error=OSError(28, "No space", "/DOE"), detail=[error])
    first, second = json_log()
    assert first["exception_type"] == "ValueError"
    assert first["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert first["exception"].splitlines()[-1] == "ValueError"
    assert second["error"] == "OSError: No space left on device"
    assert second["detail"] == ["ValueError"]


def test_a_value_that_can_t_be_rendered_raises_nothing(json_log: Lines) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    get_logger().info("x", detail=Unprintable())
    assert json_log()[0]["event"] == "log record unreadable"


def test_levels_below_the_configured_one_are_silent(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        configure_logging("json", "warning", stream)
    log = get_logger()
    log.info("quiet")
    log.error("loud")
    assert [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()] == ["loud"]


def test_module_level_loggers_follow_a_new_configuration(tmp_path: Path) -> None:
    log = get_logger()
    for name in ("first", "second"):
        with (tmp_path / name).open("w") as stream:
            configure_logging("json", "info", stream, constants={"dicomd_worker": 3})
        log.info("x")
    assert json.loads((tmp_path / "first").read_text())["dicomd_worker"] == 3
    assert len((tmp_path / "second").read_text().splitlines()) == 1


def test_records_are_counted_by_level(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="1")
    with (tmp_path / "log").open("w") as stream:
        configure_logging("json", "info", stream, metrics=metrics)
    log = get_logger()
    log.info("a")
    log.debug("b")
    log.error("c")
    log.error("d")
    counts = {
        level: registry.get_sample_value("dicomd_log_records_total", {"level": level})
        for level in ("debug", "info", "warning", "error", "critical")
    }
    assert counts == {"debug": 0, "info": 1, "warning": 0, "error": 2, "critical": 0}


def test_a_terminal_gets_coloured_lines_for_people() -> None:
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as reader, os.fdopen(slave, "w") as stream:
        assert configure_logging("auto", "info", stream) == "console"
        get_logger().info(Message.ASSOCIATION_ENDED, dicom_calling_aet="CT1\x1b[2J", outcome="released")
        text = reader.read(4096).decode()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert re.search(r"Z \[info +\] association ended +dicom_calling_aet=CT1\\x1b\[2J outcome=released\r\n", plain)
    assert "\x1b[2J" not in text


def test_the_console_format_has_the_traceback_below_its_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        configure_logging("console", "info", stream)
    try:
        {}[1]
    except KeyError:
        get_logger().exception(Message.INTERNAL_ERROR, module="dicomd.store")
    text = (tmp_path / "log").read_text()
    assert "\x1b" not in text
    assert text.splitlines()[0].endswith("module=dicomd.store exception_type=KeyError")
    assert text.splitlines()[-1] == "KeyError"


def test_what_is_no_terminal_gets_json(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert configure_logging("auto", "info", stream) == "json"


def test_a_text_in_place_of_an_exception_is_a_value_like_any_other(json_log: Lines) -> None:
    get_logger().error("x", exception="a\n" + "b" * 1000)
    assert json_log()[0]["exception"].startswith(r"a\nbbb")
    assert len(json_log()[0]["exception"]) == 512


def test_a_constant_outside_the_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="patient_id"):
        configure_logging("json", constants={"patient_id": "1"})


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging("json", "loud")


def test_lists_and_objects_are_written_for_people_where_people_read(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        configure_logging("console", "info", stream)
    contexts = [
        {"context_id": 1, "name": "CT Image", "transfer_syntaxes": ["1.2", "1.3"], "result": 0},
        {"context_id": 3, "name": "", "transfer_syntaxes": [], "result": 4},
    ]
    get_logger().warning(Message.ASSOCIATION_REJECTED, contexts=contexts)
    expected = "contexts='context_id=1 name=CT Image transfer_syntaxes=1.2, 1.3 result=0; context_id=3 result=4'"
    assert expected in (tmp_path / "log").read_text()
