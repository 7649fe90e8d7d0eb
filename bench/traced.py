"""Runs dicomd and counts the Python bytecodes that the threads of its child processes execute, for bench/steps.py.

    python traced.py FOLDER serve --config FILE

When a child exits, it writes `FOLDER/PID.json`: the bytecodes that its threads have executed, by function. Threads that
began in the same function are added up, because it is chance which of several equal ones serves an Association. A main
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
"""The counts of each thread that was started in this process, with the functions in the order of their first calls."""


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


def by_entry(threads: Iterable[Counter[CodeType]]) -> dict[str, Counter[str]]:
    """Add up the counts of the threads that began in the same function, which is the key."""
    found: dict[str, Counter[str]] = {}
    for counts in threads:
        for entry in counts:
            if entry.co_filename != threading.__file__:  # every thread begins in there
                summed = found.setdefault(name_of(entry, sys.path), Counter())
                for code, count in counts.copy().items():
                    summed[name_of(code, sys.path)] += count
                break
    return found


def write_counts(folder: Path) -> None:
    """Write what the threads of this process have executed so far."""
    (folder / f"{os.getpid()}.json").write_text(json.dumps(by_entry(_threads)))


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
