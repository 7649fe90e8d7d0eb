"""Starts of the daemon that are expected to fail."""

import subprocess
import sys
from pathlib import Path

_START = "from dicomd.cli.main import main; main()"


def failed_start(config: Path, *, sabotage: str = "") -> subprocess.CompletedProcess[str]:
    """Start the daemon and wait until it ends. `sabotage` is Python that is run in its process before it starts.

    Requires an exit status that is not 0 and an error without a traceback. Raises AssertionError.
    """
    program = ["-c", f"{sabotage}\n{_START}"] if sabotage else ["-m", "dicomd"]
    done = subprocess.run(
        [sys.executable, *program, "serve", "--config", config], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done
