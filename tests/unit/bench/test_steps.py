"""What `./scripts/bench --steps` counts, and which of it is due to instances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from bench import steps, traced
from bench.receivers import Place
from bench.versions import THIS, Version


def loop(times: int) -> int:
    total = 0
    for number in range(times):
        total += number
    return total


def counted(times: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: list[Counter[object]] = []
    monkeypatch.setattr(traced, "_threads", counts)
    before = threading.gettrace()
    threading.settrace(traced.new_thread)
    try:
        thread = threading.Thread(target=loop, args=(times,))
        thread.start()
        thread.join()
    finally:
        threading.settrace(before)
    [found] = counts
    return Counter({code.co_qualname: count for code, count in found.items()})


def test_the_difference_of_two_runs_is_what_one_pass_of_a_loop_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    counted(10, monkeypatch)  # Python 3.12 doesn't trace all of what it runs for the first time
    ten, twenty, thirty = (counted(times, monkeypatch) for times in (10, 20, 30))
    assert steps.per_instance(ten, twenty, 10) == steps.per_instance(twenty, thirty, 10)
    assert steps.per_instance(ten, twenty, 10).keys() == {"loop"}
    assert 3 <= steps.per_instance(ten, twenty, 10)["loop"] <= 10


def test_a_function_is_named_by_its_file_in_the_innermost_folder_of_imports() -> None:
    name = traced.name_of(
        loop.__code__, ["", "/elsewhere", str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    )
    assert name == "bench/test_steps.py:loop"
    assert traced.name_of(loop.__code__, []) == f"{loop.__code__.co_filename}:loop"


def test_a_process_writes_the_sums_of_its_equal_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, serve, watch = threading.Thread.run.__code__, loop.__code__, counted.__code__
    threads = [Counter({begin: 4, serve: 7, watch: 1}), Counter({begin: 4, watch: 9}), Counter({begin: 4, serve: 3})]
    monkeypatch.setattr(traced, "_threads", [*threads, Counter()])
    traced.write_counts(tmp_path)
    serving, watching = json.loads((tmp_path / f"{os.getpid()}.json").read_text()).values()
    assert list(serving.values()) == [8, 10, 1]
    assert list(watching.values()) == [4, 9]


def test_system_calls_are_counted_once_and_by_thread() -> None:
    trace = """\
101 openat(AT_FDCWD, ""..., O_RDONLY) = 3
101 fsync(3 <unfinished ...>
102   futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 0
101 <... fsync resumed>)                = 0
101 openat(AT_FDCWD, ""..., O_RDONLY) = -1 ENOENT (No such file or directory)
102 +++ exited with 0 +++
"""
    assert steps.threads_of(trace) == [Counter(openat=2, fsync=1), Counter(futex=1)]


def test_threads_that_work_at_intervals_are_left_out() -> None:
    assert steps.busy([{"send": 100}, {"statfs": 9}, {"send": 10, "recv": 5}]) == Counter(send=110, recv=5)
    assert steps.busy([]) == Counter()


def found(calls: dict[str, float], codes: dict[str, float]) -> list[steps.Steps]:
    return [steps.Steps(calls, codes)]


def test_the_page_adds_up_medians_and_shows_what_differs() -> None:
    turns = [steps.Steps({"write": count}, {"a.py:f": 100.0}) for count in (1.0, 2.0, 9.0)]
    text = steps.page(
        {
            "none, 4 KiB": {
                "this": turns,
                "old": found({"write": 1.0, "futex": 5.0}, {"a.py:f": 100.0, "b.py:g": 60.0}),
            }
        }
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["one instance", "this", "old", "this : old"] in rows
    assert ["none, 4 KiB: system calls", "2.0", "1.0", "2.000"] in rows  # without the wait for a lock
    assert ["none, 4 KiB: bytecodes", "100", "160", "0.625"] in rows
    assert ["futex", "-", "5.0"] in rows
    assert ["b.py:g", "-", "60.0"] in rows
    assert not [row for row in rows if row[0] == "a.py:f"]


def test_without_another_version_the_page_shows_where_the_bytecodes_are() -> None:
    text = steps.page(
        {"fsync, 4 KiB": {"this": found({"fsync": 1.0}, {"a.py:f": 1.0, "b.py:g": 60.0, "c.py:h": 0.01})}}
    )
    assert text.index("b.py:g") < text.index("a.py:f")
    assert "c.py:h" not in text


def test_every_turn_is_in_the_json() -> None:
    document = json.loads(steps.to_json({"none, 4 KiB": {"this": found({"write": 1.0}, {"f": 2.0})}}))
    assert document == {"none, 4 KiB": {"this": [{"calls": {"write": 1.0}, "bytecodes": {"f": 2.0}}]}}


def test_the_traced_daemon_is_the_version_that_was_asked_for(tmp_path: Path) -> None:
    place = Place(1, 2, tmp_path / "store", tmp_path, tmp_path / "sender")
    receiver = steps.Traced("none", Version("other", tmp_path), tmp_path / "counts")
    command = receiver.command(place)
    assert command[:4] == [sys.executable, traced.__file__, str(tmp_path / "counts"), "serve"]
    assert receiver.environment()["PYTHONPATH"] == str(tmp_path)
    assert "workers = 1" in (tmp_path / "dicomd.toml").read_text()


def test_the_launcher_runs_dicomd_and_nothing_of_the_benchmark(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, traced.__file__, str(tmp_path), "--version"],
        env={**os.environ, **THIS.environment()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("dicomd ")
