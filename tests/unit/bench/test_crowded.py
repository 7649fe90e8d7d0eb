"""The results that a siege must show, and the crowd against a receiver that cuts connections at once."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress

from bench.crowd import Crowd, Kind, Tally, kinds
from bench.crowded import Siege, Use, goals, page, to_json
from tests.support.waiting import wait_until


def siege(**changes: object) -> Siege:
    use = Use(100_000_000, 60, 5, 0)
    found = Siege(
        [100.0, 90.0, 110.0], [80.0, 85.0, 70.0], use, [use], [use], use, {"silent": Tally(9, 9, 0, 0.1, 1.9)}
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def not_met(found: Siege) -> list[str]:
    return [goal.text for goal in goals(found, "fsync") if not goal.met]


def test_medians_at_their_bounds_are_met() -> None:
    assert not_met(siege()) == []


def test_each_bound_is_one() -> None:
    more = Use(121_000_000, 61, 5, 0)
    assert len(not_met(siege(beside=[79.0, 79.0, 100.0]))) == 1
    assert len(not_met(siege(after=more))) == 2
    assert len(not_met(siege(tallies={"early": Tally(1, 1, 0, -0.6, -0.6), "late": Tally(1, 1, 0, 0.1, 2.1)}))) == 2


def test_the_page_says_who_was_cut_when_and_what_was_met() -> None:
    text = page({"fsync": siege()})
    for told in ("silent", "1.90", "100.0", "0.80", "met"):
        assert told in text
    assert "not met" not in text
    assert json.loads(to_json({"fsync": siege()}))["fsync"]["tallies"]["silent"]["cut"] == 9


def test_the_crowd_is_700_and_most_of_it_silent() -> None:
    assert sum(kind.count for kind in kinds()) == 700
    assert sum(kind.count for kind in kinds() if not kind.opening and not kind.drips) == 500


def test_who_is_cut_comes_back_until_let_go() -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def cut_each() -> None:
            while not over.is_set():
                with suppress(TimeoutError), server.accept()[0] as sock:
                    sock.settimeout(5)
                    sock.recv(100)

        cutter = threading.Thread(target=cut_each)
        cutter.start()
        try:
            with Crowd([Kind("first", 3, False, 0.0, b"hello")], server.getsockname()[1], 0) as crowd:
                wait_until(lambda: crowd.report()[0]["first"].cut, until=lambda seen: seen >= 10)
                crowd.let_go()
                tally = crowd.wait_for(0, 20)["first"]
        finally:
            over.set()
            cutter.join()
    assert tally.cut == tally.opened >= 10
    assert 0 <= tally.earliest <= tally.latest
