"""Memory is returned to the system once, after a burst of connections."""

from __future__ import annotations

from dicomd.worker.memory_trim import MemoryTrimmer


def seen(*connections: int) -> list[str]:
    """The actions taken as successive checks find these numbers of open connections."""
    done: list[str] = []
    trimmer = MemoryTrimmer(lambda: done.append("let go"), lambda: done.append("trimmed"))
    for count in connections:
        trimmer.look(count)
    return done


def test_nothing_is_done_while_a_burst_lasts() -> None:
    assert seen(0, 5, 350, 300, 176, 350) == []


def test_when_half_of_it_has_gone_memory_is_given_back_once() -> None:
    assert seen(0, 350, 175, 175, 174, 160) == ["let go", "trimmed"]


def test_and_again_when_the_rest_goes() -> None:
    assert seen(350, 175, 87, 0, 0) == ["let go", "trimmed"] * 3


def test_a_few_connections_are_no_burst() -> None:
    assert seen(15, 0, 15, 1, 15, 0) == []


def test_the_system_takes_it() -> None:
    done: list[str] = []
    trimmer = MemoryTrimmer(lambda: done.append("let go"))
    trimmer.look(100)
    trimmer.look(0)
    assert done == ["let go"]
