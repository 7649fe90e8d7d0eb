"""Limits how much others can make the daemon log: a budget of bytes for each host, and one for all strangers together.

A rejection costs the host that provokes it next to nothing, so even lines of bounded length add up to a full disk. Each
host has `HOST_BYTES` in any `WINDOW` seconds. Beyond that it gets one line per second, which says how many were left
out, until it asks for less; what is left out counts as asked for. All hosts that don't belong to a configured peer
share `PEER_BYTES`, and so do all that claim to be the same peer. Identical duplicates get at most half of that, so that
failures are still logged while somebody sends a whole archive once more. The counts are in memory that all processes of
the daemon share, old generations included, so neither more workers nor reloads raise a limit.

To use the accounts, all other processes must be excluded, with two system calls: too much for each Association. So
for a host that has already logged in the same second, a process pays `AHEAD` bytes in advance, while less than a
quarter of its limits is used, and writes further lines out of that. What it leaves out it counts by itself, and adds to
the accounts when the second is over.

Invariant: nothing is written that wasn't paid for in the same second, and what a process has paid for is never used by
another one, nor in another second.

Invariant: a host's account is never given to another host while anything it did within the window is in it, so that a
crowd of addresses can't wash it out. Hosts that find no free account share one; a quarter of all accounts is kept for
configured peers, so that no crowd of strangers can take theirs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
import weakref
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
AHEAD: Final = 16 * 1024
"""Bytes that a process pays for at once. What it doesn't need of them counts as asked for, too."""
_MOST_COUNTED: Final = 256
"""Hosts, with their events, that a process keeps counts of, or has paid for."""
_RESERVED: Final = 0.04
"""The share of each limit that is kept for the lines that say what was left out."""
NAMED: Final = 16
"""Hosts that get such a line of their own in the same second; the others share one."""

EVENTS: Final = (
    "association rejected", "association ended", "connection refused", "connection without association",
    "TLS handshake failed", "protocol mismatch", "store failed", "instance incomplete", "instance stored",
    "instance unfiled", "internal error", "other",
)  # fmt: skip
"""The events that are counted separately."""
_PEERS: Final = 256  # accounts of peers, the first for all strangers; more peers than that share some
_SETS, _WAYS = 128, 8
_WAYS_OF_STRANGERS: Final = 6
ACCOUNTS: Final = _SETS * _WAYS
"""The number of hosts that can have an account of their own at the same time."""

_SLOTS: Final = WINDOW + 1  # a window begins and ends in the middle of a second
_MAX_NAME: Final = 64

Locked = Callable[[], AbstractContextManager[Any]]


class LeftOut(NamedTuple):
    """Lines not written, of one host, or of several if `hosts` isn't 1; `events` has the count of each event."""

    host: str
    hosts: int
    events: dict[str, int]


class _Account(ctypes.Structure):
    """What one host has asked to log in each of the last seconds, and what was left out of that."""

    _fields_ = (
        ("newest", ctypes.c_uint64),  # the second in which it was last changed
        ("last_line", ctypes.c_uint64),  # bytes of its last line, used as the estimate for the next one
        ("seconds", ctypes.c_uint64 * _SLOTS),  # bytes asked for in a second, at its number modulo _SLOTS
        ("sum", ctypes.c_uint64),  # of `seconds`
        ("counts", ctypes.c_uint64 * len(EVENTS)),  # lines left out of each event
        ("name_length", ctypes.c_uint64),
        ("name", ctypes.c_ubyte * _MAX_NAME),
    )

    def open(self, host: str, second: int) -> None:
        """Clear the account and give it to this host."""
        name = host.encode(errors="replace")[:_MAX_NAME]
        ctypes.memset(ctypes.byref(self), 0, ctypes.sizeof(self))
        self.newest = second
        self.name_length = len(name)
        self.name[: len(name)] = name

    def asked_for(self, second: int) -> int:
        """Bytes asked for within the window that ends now."""
        gone = second - self.newest
        if gone >= _SLOTS:
            return 0
        total: int = self.sum
        if gone <= 0:  # the usual case, in which an Association shouldn't have to pay for more
            return total
        seconds: list[int] = self.seconds[:]
        return total - sum(seconds[(second - ago) % _SLOTS] for ago in range(gone))

    def has_room(self, second: int, size: int, bound: int) -> bool:
        """Whether another line of `size` bytes stays within the limit."""
        return self.asked_for(second) + size <= bound * (1 - _RESERVED)

    def add(self, second: int, size: int) -> None:
        """Count `size` bytes as asked for in that second; nothing if it is no longer in any window."""
        if self.newest - second >= _SLOTS:
            return
        if second > self.newest:
            for ago in range(min(second - self.newest, _SLOTS)):
                self.seconds[(second - ago) % _SLOTS] = 0
            self.newest = second
            self.sum = sum(self.seconds[:])
        self.seconds[second % _SLOTS] += size
        self.sum += size

    def is_idle(self, second: int) -> bool:
        """Whether nothing that the host did is within the window or unreported."""
        return not self.asked_for(second) and not any(self.counts)

    def leave_out(self, event: str, lines: int) -> None:
        """Count lines that aren't written."""
        self.counts[EVENTS.index(event if event in EVENTS else "other")] += lines

    def take_left_out(self) -> LeftOut:
        """Return the lines left out since the last call, and reset their counts."""
        counts: list[int] = self.counts[:]
        if not any(counts):
            return LeftOut("", 1, {})
        self.counts[:] = [0] * len(counts)
        name = bytes(self.name[: self.name_length]).decode(errors="replace")
        events = {event: count for event, count in zip(EVENTS, counts, strict=True) if count}
        return LeftOut(name, 1 if name else 0, events)


class _Memory(ctypes.Structure):
    _fields_ = (
        ("unreported", ctypes.c_uint64),  # whether any lines were left out since the last report
        ("reported", ctypes.c_uint64),  # the second of the last report
        ("digests", ctypes.c_uint64 * ACCOUNTS),  # of the hosts' names
        ("hosts", _Account * ACCOUNTS),
        ("others", _Account),  # of all hosts that find no free account
        ("peers", _Account * _PEERS),
    )


class _Own:
    """What one process has counted and paid for by itself in one `second`. `using` excludes its other threads."""

    def __init__(self) -> None:
        self.using = threading.Lock()
        self.second = 0
        self.paid: dict[tuple[str, str], int] = {}  # bytes that a host and a peer may still log; 0 for what has logged
        self.left_out: dict[tuple[str, str], int] = {}  # lines of a host and an event

    def pay(self, host: str, peer: str, size: int) -> None:
        """Note what is paid for, unless that is known of too many already."""
        if len(self.paid) < _MOST_COUNTED or (host, peer) in self.paid:
            self.paid[host, peer] = size


class LineBudget:
    """The accounts, in memory that every fork inherits. `locked` excludes other processes and threads."""

    def __init__(self, locked: Locked, clock: Callable[[], float] = time.monotonic) -> None:
        self._locked = locked
        self._clock = clock
        self._key = os.urandom(16)  # else a stranger could choose addresses that share a sender's account
        self._memory = _Memory.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Memory)))
        self._digests = self._memory.digests
        self._hosts: list[_Account] = list(self._memory.hosts)
        self._others: _Account = self._memory.others
        self._peers: list[_Account] = list(self._memory.peers)
        self._own = _Own()
        _budgets.add(self)

    def start_in_child(self) -> None:
        """Forget what the parent of this process has counted and paid for. For use after a fork."""
        self._own = _Own()

    def is_spent(self, host: str, peer: str, event: str) -> bool:
        """Whether another line would exceed the budget. For use before the line is made; doesn't wait for the lock.

        `host` is what `addresses.host_of` returns, `peer` the name of a peer, or "" if the line concerns none. Until a
        line has been left out, which is reported every second, it looks at no account: then `spend` decides alone.
        """
        if not self._memory.unreported:
            return False
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
        second = int(self._clock())
        own = self._own
        with own.using:
            if own.second == second:
                paid = own.paid.get((host, peer), 0)
                if paid >= size:
                    own.paid[host, peer] = paid - size
                    return True
        return self._charge(host, peer, size, event, second)

    def _charge(self, host: str, peer: str, size: int, event: str, second: int) -> bool:
        """Charge a line to the accounts, and perhaps what the host may log next."""
        own = self._own
        with own.using, self._locked():
            self._settle(second)
            of_host = self._account(host, second, peer)
            accounts = [(of_host, HOST_BYTES)]
            if peer:
                accounts.append((self._of_peer(peer), PEER_BYTES))
            for account, _ in accounts:
                account.last_line = size
            if not all(account.has_room(second, size, _bound(limit, event)) for account, limit in accounts):
                self._leave_out(of_host, second, event)
                return False
            ahead = 0
            rest = own.paid.get((host, peer))
            if rest is not None and all(
                account.has_room(second, size + AHEAD, limit // 4) for account, limit in accounts
            ):
                ahead = AHEAD
            own.pay(host, peer, (rest or 0) + ahead)
            for account, _ in accounts:
                account.add(second, size + ahead)
            return True

    def leave_out(self, host: str, event: str) -> None:
        """Count a line as left out that wasn't made because `is_spent` was true."""
        second = int(self._clock())
        own = self._own
        with own.using:
            if own.second != second or len(own.left_out) >= _MOST_COUNTED:
                with self._locked():
                    self._settle(second)
            own.left_out[host, event] = own.left_out.get((host, event), 0) + 1
            self._memory.unreported = 1

    def _settle(self, second: int) -> None:
        """Add what this process has counted to the accounts, and begin a new second. The caller holds both locks."""
        own = self._own
        for (host, event), lines in own.left_out.items():
            self._leave_out(self._account(host, own.second, UNKNOWN_PEER), own.second, event, lines)
        own.left_out.clear()
        if own.second != second:
            own.second = second
            own.paid.clear()

    def settle(self, *, at_once: bool = False) -> None:
        """Have any process report what this one has left out in a second that is over, or `at_once` in this one.

        Must be called once a second by a process that doesn't call `take_left_out`.
        """
        second = int(self._clock())
        own = self._own
        with own.using:
            if own.left_out and (at_once or own.second != second):
                with self._locked():
                    self._settle(second)

    def take_left_out(self, *, at_once: bool = False) -> list[LeftOut]:
        """Return what was left out since the last report of any process: once a second, or `at_once`."""
        self.settle(at_once=at_once)
        second = int(self._clock())
        if not self._memory.unreported or (not at_once and second == self._memory.reported):
            return []
        with self._locked():
            if not at_once and second == self._memory.reported:
                return []
            self._memory.unreported = 0
            self._memory.reported = second
            found = [account.take_left_out() for account in (*self._hosts, self._others, *self._peers)]
        told = sorted((each for each in found if each.events), key=lambda each: -sum(each.events.values()))
        named, rest = told[:NAMED], told[NAMED:]
        if rest:
            events = {event: sum(each.events.get(event, 0) for each in rest) for event in EVENTS}
            named.append(LeftOut("", len(rest), {event: count for event, count in events.items() if count}))
        return named

    def _leave_out(self, account: _Account, second: int, event: str, lines: int = 1) -> None:
        self._memory.unreported = 1
        account.leave_out(event, lines)
        if event != _REPEATED and not account.has_room(second, account.last_line, HOST_BYTES):
            account.add(second, lines * account.last_line)

    def _of_peer(self, peer: str) -> _Account:
        """The peer's account; that of all strangers is shared with no configured peer."""
        return self._peers[0 if peer == UNKNOWN_PEER else 1 + self._digest(peer) % (_PEERS - 1)]

    def _digest(self, name: str) -> int:
        digest = blake2b(name.encode(errors="replace"), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") or 1

    def _found(self, digest: int) -> _Account | None:
        start = digest % _SETS * _WAYS
        digests: list[int] = self._digests[start : start + _WAYS]
        return self._hosts[start + digests.index(digest)] if digest in digests else None

    def _idle(self, digest: int, second: int, peer: str) -> int | None:
        """The number of an account that a new host with this digest may have, or None if all are in use."""
        start = digest % _SETS * _WAYS
        ways = _WAYS_OF_STRANGERS if peer == UNKNOWN_PEER else _WAYS
        return next((at for at in range(start, start + ways) if self._hosts[at].is_idle(second)), None)

    def _account(self, host: str, second: int, peer: str) -> _Account:
        """The host's account, a new one, or the shared one if none is free. The caller holds the lock."""
        digest = self._digest(host)
        if (found := self._found(digest)) is not None:
            return found
        if (at := self._idle(digest, second, peer)) is None:
            return self._others
        self._hosts[at].open(host, second)
        self._digests[at] = digest
        return self._hosts[at]


def _bound(size: int, event: str) -> int:
    return size // 2 if event == _REPEATED else size


_budgets: weakref.WeakSet[LineBudget] = weakref.WeakSet()


def _start_in_child() -> None:
    for budget in list(_budgets):
        budget.start_in_child()


os.register_at_fork(after_in_child=_start_in_child)
