"""The running daemon under damaged connections, with healthy senders at the same time.

No worker may end, nothing unexpected may be logged, no healthy Association may be harmed, every instance answered with
success must be there, and afterwards memory, descriptors, threads and the file system must be as before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import StartDaemon, start_daemon  # noqa: F401 - the fixture
from tests.fuzz.connections import Barrage
from tests.fuzz.seeds import streams, with_window
from tests.support.daemon import Daemon
from tests.support.load import Load
from tests.support.objects import new_uid

RecordProperty = Callable[[str, object], None]
MEMORY = 64 << 20
"""Bytes by which a worker may grow after the first tenth: caches are bounded, but not yet full by then."""
_STORED = re.compile(r"[0-9.]{1,64}/[0-9.]{1,64}/[0-9.]{1,64}(-[0-9]+)?\.dcm")


def resident(daemon: Daemon) -> dict[int, int]:
    """The resident memory of each worker in bytes, by pid."""
    pages = {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in daemon.worker_pids()}
    return {pid: count * 4096 for pid, count in pages.items()}


def others(daemon: Daemon) -> set[Path]:
    """Every file and folder around the daemon's store."""
    folder, store = daemon.config_path.parent.parent, daemon.root
    return {path for path in folder.rglob("*") if not path.is_relative_to(store)}


def bombard(
    daemon: Daemon, connections: int, *, first_seed: int, senders: int = 2, windows: bool = False
) -> dict[str, object]:
    """Send `connections` damaged connections, and check everything; return the measurements.

    With `windows`, each proposes an Asynchronous Operations Window before it is damaged.
    """
    recorded = [with_window(stream) if windows else stream for stream in streams().values()]
    around, workers = others(daemon), daemon.worker_pids()
    warm_up = connections // 10
    for _ in range(10):
        new_uid()  # skip the UIDs that the recordings use: damaged, they would replace healthy instances
    with Load(daemon, senders=senders) as load:
        first = Barrage(daemon.address, recorded, range(first_seed, first_seed + warm_up))
        first.run()
        before = resident(daemon)
        rest = Barrage(daemon.address, recorded, range(first_seed + warm_up, first_seed + connections))
        rest.run()
        after = resident(daemon)
    ends = first.ends + rest.ends
    assert ends.total() == connections
    assert not first.hanging + rest.hanging, "the daemon did not end these connections (seeds)"
    assert not load.failures
    assert load.acknowledged
    assert not load.lost()
    assert daemon.worker_pids() == workers, "a worker ended"
    counted = daemon.metrics()
    assert not {k: v for k, v in counted.items() if k[0] == "dicomd_internal_errors_total" and v}
    assert not {k: v for k, v in counted.items() if k[0] == "dicomd_worker_exits_total" and v}
    growth = {pid: after[pid] - before[pid] for pid in after}
    assert max(growth.values()) < MEMORY, growth
    daemon.check_health()
    assert not others(daemon) - around, "files outside the store"
    strange = [path for path in daemon.paths() if not _STORED.fullmatch(str(path.relative_to(daemon.root)))]
    assert not strange
    return {
        "connections": connections,
        "ends": dict(ends),
        "healthy instances at the same time": len(load.acknowledged),
        "MiB per worker before and after": [[before[pid] >> 20, after[pid] >> 20] for pid in after],
        "instances stored by damaged connections": len(daemon.paths()) - len(load.acknowledged),
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("windows", [False, True], ids=["one by one", "with a window"])
def test_a_few_thousand_damaged_connections_harm_nobody(
    start_daemon: StartDaemon,  # noqa: F811 - the fixture
    record_property: RecordProperty,
    *,
    windows: bool,
) -> None:
    daemon = start_daemon(dicomd={"workers": 2}, storage={"duplicates": "replace"})
    for name, value in bombard(daemon, 2000, first_seed=1, windows=windows).items():
        record_property(name, value)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_hundred_thousand_damaged_connections_harm_nobody(
    start_daemon: StartDaemon,  # noqa: F811 - the fixture
    record_property: RecordProperty,
) -> None:
    minutes = int(os.environ.get("DICOMD_SOAK_MINUTES", "60"))
    daemon = start_daemon(dicomd={"workers": 2}, storage={"duplicates": "replace"}, log={"level": "info"})
    for name, value in bombard(daemon, min(100_000, 5000 * minutes), first_seed=1_000_000).items():
        record_property(name, value)
