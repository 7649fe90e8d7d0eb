"""Merges security alerts: a stranger's first ones are reported at once, and their repetitions together, once a minute.

PS3.15 A.5 lets an audit message stand for several events. Invariant: one host causes at most `2 * MOST_KINDS + 1`
messages in `MERGED_FOR` seconds, however often it tries, and what is remembered of all hosts is bounded.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from dicomd.addresses import host_of
from dicomd.audit.events import Node, SecurityAlert

MERGED_FOR: Final = 60.0
"""Seconds from the first alert of a host to the messages that report its repetitions."""
MOST_HOSTS: Final = 1024
"""Hosts that are remembered. To remember one more, the repetitions of the earliest one are reported early."""
MOST_KINDS: Final = 8
"""Combinations of AE Title and reason that are kept apart for one host."""

_Kind = tuple[str, str]
_OTHERS: Final[_Kind] = ("", "")


class _Repetitions:
    """How often an alert of one kind has been repeated, since when, and the last repetition."""

    __slots__ = ("count", "last", "since")

    def __init__(self) -> None:
        self.count = 0
        self.since: datetime | None = None
        self.last: SecurityAlert | None = None

    def add(self, alert: SecurityAlert) -> None:
        self.count += alert.times
        self.since = self.since or alert.when
        self.last = alert


class MergedAlerts:
    """The recent alerts of all hosts. For one thread at a time; times are those of the monotonic clock."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[float, dict[_Kind, _Repetitions]]] = {}  # in the order of their first alerts

    def take(self, alert: SecurityAlert, now: float) -> list[SecurityAlert]:
        """Add an alert; return what is to be reported at once."""
        told: list[SecurityAlert] = []
        host = host_of(alert.node.address)
        if host not in self._hosts:
            if len(self._hosts) >= MOST_HOSTS:
                told += self._forget(next(iter(self._hosts)))
            self._hosts[host] = (now, {})
        _, kinds = self._hosts[host]
        kind = (alert.node.ae_title, alert.reason)
        if kind in kinds:
            kinds[kind].add(alert)
        elif len(kinds) < MOST_KINDS:
            kinds[kind] = _Repetitions()
            told.append(alert)
        else:
            kinds.setdefault(_OTHERS, _Repetitions()).add(alert)
        return told

    def due(self, now: float) -> list[SecurityAlert]:
        """Return what is to be reported now, of hosts whose time is over."""
        over = [host for host, (began, _) in self._hosts.items() if now - began >= MERGED_FOR]
        return [alert for host in over for alert in self._forget(host)]

    def next_due(self) -> float | None:
        """Return when `due` will have something to do; None if there are no hosts."""
        return next((began + MERGED_FOR for began, _ in self._hosts.values()), None)

    def rest(self) -> list[SecurityAlert]:
        """Return everything that has not been reported, at the end."""
        return [alert for host in list(self._hosts) for alert in self._forget(host)]

    def _forget(self, host: str) -> list[SecurityAlert]:
        _, kinds = self._hosts.pop(host)
        return [_merged(kind, repetitions) for kind, repetitions in kinds.items() if repetitions.last is not None]


def _merged(kind: _Kind, repetitions: _Repetitions) -> SecurityAlert:
    last = repetitions.last
    if last is None:
        raise ValueError("nothing was repeated")
    if kind is _OTHERS:  # with many AE Titles, no single one stands for all
        last = last._replace(node=Node("", last.node.address), reason=f"various, most recently: {last.reason}")
    return last._replace(times=repetitions.count, since=repetitions.since)
