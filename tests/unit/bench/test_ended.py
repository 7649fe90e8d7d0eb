"""A benchmark that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import processes
from tests.support.processes import exists
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT = 50.0


@pytest.mark.timeout(200)
def test_nothing_is_left_running_and_no_file_after_sigterm(tmp_path: Path) -> None:
    """SIGTERM arrives as soon as the receiver has processes of its own."""
    scratch, output = tmp_path / "scratch", tmp_path / "results.json"
    scratch.mkdir()
    command = ["--only", "associations", "--peers", "dicomd-none", "--scratch", str(scratch), "--output", str(output)]
    bench = subprocess.Popen(
        [sys.executable, "-m", "bench", *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    started = [bench.pid]
    try:
        wait_until(
            lambda: len(processes.tree(bench.pid)),
            TIMEOUT,
            until=lambda count: count > 2,
            what="no receiver was started",
        )
        started = processes.tree(bench.pid)
        bench.send_signal(signal.SIGTERM)
        _, said = bench.communicate(timeout=TIMEOUT)
        assert bench.returncode == 1
        assert b"interrupted" in said
        assert list(scratch.iterdir()) == []
        wait_until(lambda: [pid for pid in started if exists(pid)], TIMEOUT, equals=[], what="one is still running")
    finally:
        for pid in filter(exists, started):
            os.kill(pid, signal.SIGKILL)
