"""The daemon that counts nothing still logs."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
from bench.uncounted import stop_counting
from dicomd.telemetry.logs import configure_logging, get_logger
stop_counting()
configure_logging("json", "info")
get_logger().info("started", version="1")
"""


def test_lines_are_written_though_nobody_counts_them() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert '"event":"started"' in done.stderr
