"""Limits how much others can make the daemon log: a budget of bytes for each host, and one for all strangers together.

A rejection costs the host that provokes it next to nothing, so even lines of bounded length add up to a full disk. Each
host has `HOST_BYTES` in any `WINDOW` seconds. Beyond that it gets one line per second, which says how many were left
out, until it asks for less; what is left out counts as asked for. All hosts that don't belong to a configured peer
share `PEER_BYTES`, and so do all that claim to be the same peer. Identical duplicates get at most half of that, so that
failures are still logged while somebody sends a whole archive once more. The counts are in memory that all processes of
the daemon share, old generations included, so neither more workers nor reloads raise a limit.

Invariant: a host's account is never given to another host while anything it did within the window is in it, so that a
crowd of addresses can't wash it out. Hosts that find no free account share one; a quarter of all accounts is kept for
configured peers, so that no crowd of strangers can take theirs.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from dicomd.telemetry.labels import UNKNOWN_PEER
from dicomd.telemetry.messages import Message

WINDOW: Final = 10
"""Seconds."""
HOST_BYTES: Final = 1_000_000
PEER_BYTES: Final = 5_000_000
"""For all hosts of one peer; all that aren't configured peers are the peer "unknown"."""
_REPEATED: Final = Message.INSTANCE_STORED.value
"""The event of identical duplicates, whose lines don't count as asked for when they are left out. The lines of new
instances aren't limited."""
_RESERVED: Final = 0.04
"""The share of each limit that is kept for the lines that say what was left out."""
NAMED: Final = 16
"""Hosts that get such a line of their own in the same second; the others share one."""

EVENTS: Final = (
    "association rejected", "association ended", "connection refused", "connection without association",
    "TLS handshake failed", "store failed", "instance incomplete", "instance stored", "internal error", "other",
)  # fmt: skip
"""The events that are counted separately."""
_PEERS: Final = 256  # accounts of peers, the first for all strangers; more peers than that share some
_SETS, _WAYS = 128, 8
_WAYS_OF_STRANGERS: Final = 6
ACCOUNTS: Final = _SETS * _WAYS
"""The number of hosts that can have an account of their own at the same time."""

# An account in words of 8 bytes: when it was last changed, the length of its last line, what was asked for in each of
# the last seconds, the number of lines left out of each event, the name's length, and the name.
_NEWEST, _LAST_LINE, _SECONDS = 0, 1, 2
_SLOTS: Final = WINDOW + 1  # a window begins and ends in the middle of a second
_COUNTS: Final = _SECONDS + _SLOTS
_NAME_LENGTH: Final = _COUNTS + len(EVENTS)
_NAME: Final = _NAME_LENGTH + 1
_MAX_NAME: Final = 64
_ACCOUNT: Final = _NAME + _MAX_NAME // 8

Locked = Callable[[], AbstractContextManager[Any]]


class LeftOut(NamedTuple):
    """Lines not written, of one host, or of several if `hosts` isn't 1; `events` has the count of each event."""

    host: str
    hosts: int
    events: dict[str, int]


class LineBudget:
    """The accounts, in memory that every fork inherits. `locked` excludes other processes and threads."""

    def __init__(self, locked: Locked | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._locked = locked or _lock_of_one_process()
        self._clock = clock
        self._key = os.urandom(16)  # else a stranger could choose addresses that share a sender's account
        memory = memoryview(mmap.mmap(-1, 8 * (2 + ACCOUNTS + (1 + _PEERS + ACCOUNTS) * _ACCOUNT)))
        # Whether any lines are left out and unreported, and the second of the last report.
        self._head, rest = memory[:16].cast("Q"), memory[16:]
        self._digests, accounts = rest[: 8 * ACCOUNTS].cast("Q"), rest[8 * ACCOUNTS :]
        size = 8 * _ACCOUNT
        self._accounts = [_Account(accounts[at * size : (at + 1) * size]) for at in range(ACCOUNTS + 1 + _PEERS)]
        self._others, self._peers = self._accounts[ACCOUNTS], self._accounts[ACCOUNTS + 1 :]

    def is_spent(self, host: str, peer: str, event: str) -> bool:
        """Whether another line would exceed the budget. For use before the line is made; doesn't wait for the lock.

        `host` is what `addresses.host_of` returns, `peer` the name of a peer, or "" if the line concerns none.
        """
        second = int(self._clock())
        if peer and not (of_peer := self._of_peer(peer)).has_room(second, of_peer.last_line, _bound(PEER_BYTES, event)):
            return True
        digest = self._digest(host)
        account = self._found(digest)
        if account is None and self._idle(digest, second, peer) is None:
            account = self._others
        return account is not None and not account.has_room(second, account.last_line, _bound(HOST_BYTES, event))

    def spend(self, host: str, peer: str, size: int, event: str) -> bool:
        """Charge a line of `size` bytes to the budget. If that is too much, count it as left out and return False."""
        with self._locked():
            second = int(self._clock())
            bounds = [(self._account(host, second, peer), _bound(HOST_BYTES, event))]
            if peer:
                bounds.append((self._of_peer(peer), _bound(PEER_BYTES, event)))
            for account, _ in bounds:
                account.last_line = size
            if not all(account.has_room(second, size, bound) for account, bound in bounds):
                self._leave_out(bounds[0][0], second, event)
                return False
            for account, _ in bounds:
                account.add(second, size)
            return True

    def leave_out(self, host: str, event: str) -> None:
        """Count a line as left out that wasn't made because `is_spent` was true."""
        with self._locked():
            second = int(self._clock())
            self._leave_out(self._account(host, second, UNKNOWN_PEER), second, event)

    def take_left_out(self, *, at_once: bool = False) -> list[LeftOut]:
        """Return what was left out since the last report of any process: once a second, or `at_once`."""
        second = int(self._clock())
        if not self._head[0] or (not at_once and second == self._head[1]):
            return []
        with self._locked():
            if not at_once and second == self._head[1]:
                return []
            self._head[0], self._head[1] = 0, second
            found = [account.take_left_out() for account in self._accounts]
        told = sorted((each for each in found if each.events), key=lambda each: -sum(each.events.values()))
        named, rest = told[:NAMED], told[NAMED:]
        if rest:
            events = {event: sum(each.events.get(event, 0) for each in rest) for event in EVENTS}
            named.append(LeftOut("", len(rest), {event: count for event, count in events.items() if count}))
        return named

    def _leave_out(self, account: _Account, second: int, event: str) -> None:
        self._head[0] = 1
        account.leave_out(event)
        if event != _REPEATED and not account.has_room(second, account.last_line, HOST_BYTES):
            account.add(second, account.last_line)

    def _of_peer(self, peer: str) -> _Account:
        """The peer's account; that of all strangers is shared with no configured peer."""
        return self._peers[0 if peer == UNKNOWN_PEER else 1 + self._digest(peer) % (_PEERS - 1)]

    def _digest(self, name: str) -> int:
        digest = blake2b(name.encode(errors="replace"), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") or 1

    def _found(self, digest: int) -> _Account | None:
        start = digest % _SETS * _WAYS
        digests = self._digests[start : start + _WAYS].tolist()
        return self._accounts[start + digests.index(digest)] if digest in digests else None

    def _idle(self, digest: int, second: int, peer: str) -> int | None:
        """The number of an account that a new host with this digest may have, or None if all are in use."""
        start, ways = digest % _SETS * _WAYS, _WAYS_OF_STRANGERS if peer == UNKNOWN_PEER else _WAYS
        return next((at for at in range(start, start + ways) if self._accounts[at].is_idle(second)), None)

    def _account(self, host: str, second: int, peer: str) -> _Account:
        """The host's account, a new one, or the shared one if none is free. The caller holds the lock."""
        digest = self._digest(host)
        if (found := self._found(digest)) is not None:
            return found
        if (at := self._idle(digest, second, peer)) is None:
            return self._others
        self._accounts[at].open(host, second)
        self._digests[at] = digest
        return self._accounts[at]


class _Account:
    """What one host has asked to log in each of the last seconds, and what was left out of that."""

    __slots__ = ("_name", "_words")

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        self._name = memory[8 * _NAME :]

    @property
    def last_line(self) -> int:
        """The length of its last line in bytes, used as the estimate for the next one."""
        return self._words[_LAST_LINE]

    @last_line.setter
    def last_line(self, size: int) -> None:
        self._words[_LAST_LINE] = size

    def open(self, host: str, second: int) -> None:
        """Clear the account and give it to this host."""
        name = host.encode(errors="replace")[:_MAX_NAME]
        for word in range(_ACCOUNT):
            self._words[word] = 0
        self._words[_NEWEST], self._words[_NAME_LENGTH] = second, len(name)
        self._name[: len(name)] = name

    def asked_for(self, second: int) -> int:
        """Bytes asked for within the window that ends now."""
        gone = second - self._words[_NEWEST]
        if gone >= _SLOTS:
            return 0
        slots: list[int] = self._words[_SECONDS:_COUNTS].tolist()
        return sum(slots) - sum(slots[(second - ago) % _SLOTS] for ago in range(gone))

    def has_room(self, second: int, size: int, bound: int) -> bool:
        """Whether another line of `size` bytes stays within the limit."""
        return self.asked_for(second) + size <= bound * (1 - _RESERVED)

    def add(self, second: int, size: int) -> None:
        """Count `size` bytes as asked for."""
        for ago in range(min(second - self._words[_NEWEST], _SLOTS)):
            self._words[_SECONDS + (second - ago) % _SLOTS] = 0
        self._words[_NEWEST] = max(second, self._words[_NEWEST])
        self._words[_SECONDS + second % _SLOTS] += size

    def is_idle(self, second: int) -> bool:
        """Whether nothing that the host did is within the window or unreported."""
        return not self.asked_for(second) and not any(self._words[_COUNTS:_NAME_LENGTH].tolist())

    def leave_out(self, event: str) -> None:
        """Count a line that isn't written."""
        self._words[_COUNTS + EVENTS.index(event if event in EVENTS else "other")] += 1

    def take_left_out(self) -> LeftOut:
        """Return the lines left out since the last call, and reset their counts."""
        counts = self._words[_COUNTS:_NAME_LENGTH].tolist()
        if not any(counts):
            return LeftOut("", 1, {})
        for word in range(_COUNTS, _NAME_LENGTH):
            self._words[word] = 0
        name = bytes(self._name[: self._words[_NAME_LENGTH]]).decode(errors="replace")
        events = {event: count for event, count in zip(EVENTS, counts, strict=True) if count}
        return LeftOut(name, 1 if name else 0, events)


def _bound(size: int, event: str) -> int:
    return size // 2 if event == _REPEATED else size


def _lock_of_one_process() -> Locked:
    lock = threading.Lock()
    return lambda: lock
