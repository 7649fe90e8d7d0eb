"""The notifications to systemd, which never block even if systemd doesn't read them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomd.supervisor.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of the socket that belongs to systemd. It is read only when a test reads it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(systemd: socket.socket) -> list[str]:
    """All notifications that have arrived."""
    messages = []
    while True:
        try:
            messages.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return messages


def notifier(systemd: socket.socket, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": systemd.getsockname(), **more})


def test_systemd_is_told_and_the_variables_are_taken_away(systemd: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "30000000", "HOME": "/"}
    told = Notifier(environ)
    assert environ == {"HOME": "/"}
    assert told.watchdog_interval == 15.0
    told.ready("one worker")
    told.status("one worker")  # unchanged, so it is not sent again
    told.status("two workers")
    told.alive()
    told.alive()  # no watchdog message is due
    told.stopping("the end")
    assert heard(systemd) == [
        "READY=1\nSTATUS=one worker",
        "STATUS=two workers",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=the end",
    ]


def test_a_systemd_that_stands_still_holds_nobody_up_and_learns_the_latest_of_each(systemd: socket.socket) -> None:
    """If each notification waited for a second, this test would take minutes."""
    told = notifier(systemd)
    for number in range(500):
        told.reloading()
        told.status(f"status {number}")
        told.ready(f"reload {number}")
    first = heard(systemd)
    assert 0 < len(first) < 1000  # then the queue was full
    told.alive()
    rest = heard(systemd)
    assert [message.partition("=")[0] for message in rest] == ["RELOADING", "STATUS", "READY"]
    assert rest[-1] == "READY=1\nSTATUS=reload 499"
    told.alive()
    assert heard(systemd) == []


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready("")
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1"})
    gone.ready("")
    gone.alive()
