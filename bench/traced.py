"""Runs dicomd and counts the Python bytecodes that the threads of its child processes execute, for bench/steps.py.

    python traced.py FOLDER serve --config FILE

When a child exits, it writes `FOLDER/PID.json`: for each thread that it has started, the bytecodes by function. A main
thread is not traced: it accepts connections, but does nothing for an instance. Functions written in C count nothing.

This program imports nothing else of the benchmark, because the dicomd that it finds may be that of another checkout.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

from dicomd.cli.main import main as dicomd

Tracer = Callable[[FrameType, str, Any], Any]

_threads: list[Counter[CodeType]] = []
"""The counts of each thread that was started in this process."""


def new_thread(frame: FrameType, event: str, arg: Any) -> Any:
    """Trace function for `threading.settrace`: gives the thread that calls it a count of its own."""
    counts: Counter[CodeType] = Counter()
    _threads.append(counts)

    def count(frame: FrameType, event: str, _arg: Any) -> Tracer:
        if event == "opcode":
            counts[frame.f_code] += 1
        elif event == "call":
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return count

    sys.settrace(count)
    return count(frame, event, arg)


def name_of(code: CodeType, folders: Iterable[str]) -> str:
    """Name a function by its module's file, relative to the folder that it was imported from, and its own name."""
    inside = [folder for folder in folders if folder and code.co_filename.startswith(folder + os.sep)]
    file = code.co_filename.removeprefix(max(inside, key=len) + os.sep) if inside else code.co_filename
    return f"{file}:{code.co_qualname}"


def write_counts(folder: Path) -> None:
    """Write what the threads of this process have executed so far."""
    found = []
    for counts in _threads:
        named: Counter[str] = Counter()
        for code, count in counts.copy().items():
            named[name_of(code, sys.path)] += count
        found.append(named)
    (folder / f"{os.getpid()}.json").write_text(json.dumps(found))


def main() -> None:
    """Run dicomd's command line in this process."""
    folder = Path(sys.argv.pop(1))
    leave = os._exit

    def write_and_leave(status: int) -> NoReturn:
        write_counts(folder)
        leave(status)

    os._exit = write_and_leave  # the way in which every child ends; the supervisor itself returns from `main`
    threading.settrace(new_thread)
    dicomd(prog_name="dicomd")


if __name__ == "__main__":
    main()
