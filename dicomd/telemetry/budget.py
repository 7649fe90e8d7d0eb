"""How much others can make the log say: a budget of bytes for each host, and one for all strangers together.

A rejection costs whoever asks for it next to nothing, so bounded lines alone still add up to a full disk. Each host has
`HOST_BYTES` in any `WINDOW` seconds; beyond that it has one line a second, which says how many were left out, until it
asks for less than that: what is left out counts as asked for. All hosts that aren't a configured peer's have
`PEER_BYTES` together, and so have all that say they are the same peer. Instances that come once more take half of that
at most: whoever repeats a whole archive leaves room for the line of what fails among them. The counts are in memory
that all processes of the daemon share, old generations included, so neither more workers nor reloads stretch a bound.

Invariant: a host's account is never given to another while anything it did within the window is in it, so that a crowd
of addresses can't wash it out. Hosts that find no account share one; a quarter of all accounts is for peers alone, so
that no crowd of strangers takes theirs.
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
"""Of all hosts of one peer; who is no configured peer is the peer "unknown"."""
_REPEATED: Final = Message.INSTANCE_STORED.value
"""The event of identical duplicates, whose lines don't count as asked for when they are left out. The lines of new
instances are in no budget."""
_RESERVED: Final = 0.04
"""Of each bound, for the lines that say what was left out."""
NAMED: Final = 16
"""Hosts that have such a line of their own in the same second; the others share one."""

EVENTS: Final = (
    "association rejected", "association ended", "connection refused", "connection without association",
    "TLS handshake failed", "store failed", "instance incomplete", "instance stored", "internal error", "other",
)  # fmt: skip
"""What is counted apart."""
_PEERS: Final = 256  # accounts of peers, the first that of all strangers; more peers than these share some
_SETS, _WAYS = 128, 8
_WAYS_OF_STRANGERS: Final = 6
ACCOUNTS: Final = _SETS * _WAYS
"""Hosts that have an account of their own at once."""

# Of an account, in units of 8 bytes: when it was last changed, the length of its last line, what was asked for in each
# of the last seconds, the lines left out of each event, the name's length, and the name.
_NEWEST, _LAST_LINE, _SECONDS = 0, 1, 2
_SLOTS: Final = WINDOW + 1  # a window begins and ends in the middle of a second
_COUNTS: Final = _SECONDS + _SLOTS
_NAME_LENGTH: Final = _COUNTS + len(EVENTS)
_NAME: Final = _NAME_LENGTH + 1
_MAX_NAME: Final = 64
_ACCOUNT: Final = _NAME + _MAX_NAME // 8

Locked = Callable[[], AbstractContextManager[Any]]


class LeftOut(NamedTuple):
    """Lines that weren't written: of one host, or of several where `hosts` isn't 1; `events` has the count of each."""

    host: str
    hosts: int
    events: dict[str, int]


class LineBudget:
    """The accounts, in memory that every fork inherits. `locked` keeps other processes and threads away."""

    def __init__(self, locked: Locked | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._locked = locked or _lock_of_one_process()
        self._clock = clock
        self._key = os.urandom(16)  # else a stranger could choose addresses that share the accounts of a sender
        memory = memoryview(mmap.mmap(-1, 8 * (2 + ACCOUNTS + (1 + _PEERS + ACCOUNTS) * _ACCOUNT)))
        self._head, rest = memory[:16].cast("Q"), memory[16:]  # lines left out and not yet told, when it was told
        self._digests, accounts = rest[: 8 * ACCOUNTS].cast("Q"), rest[8 * ACCOUNTS :]
        size = 8 * _ACCOUNT
        self._accounts = [_Account(accounts[at * size : (at + 1) * size]) for at in range(ACCOUNTS + 1 + _PEERS)]
        self._others, self._peers = self._accounts[ACCOUNTS], self._accounts[ACCOUNTS + 1 :]

    def is_spent(self, host: str, peer: str, event: str) -> bool:
        """Whether another line would be too much: before it is made, and without waiting for anybody.

        `host` is as `addresses.host_of` has it, `peer` the name of a peer, "" for what concerns none.
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
        """Take a line of `size` bytes out of the budget; False, and counted as left out, where that is too much."""
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
        """Count a line that wasn't made, as `is_spent` has said."""
        with self._locked():
            second = int(self._clock())
            self._leave_out(self._account(host, second, UNKNOWN_PEER), second, event)

    def take_left_out(self, *, at_once: bool = False) -> list[LeftOut]:
        """What was left out since this was last told, by whatever process: once a second, or `at_once`."""
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
        """The peer's account; nobody shares that of all strangers."""
        return self._peers[0 if peer == UNKNOWN_PEER else 1 + self._digest(peer) % (_PEERS - 1)]

    def _digest(self, name: str) -> int:
        digest = blake2b(name.encode(errors="replace"), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") or 1

    def _found(self, digest: int) -> _Account | None:
        start = digest % _SETS * _WAYS
        digests = self._digests[start : start + _WAYS].tolist()
        return self._accounts[start + digests.index(digest)] if digest in digests else None

    def _idle(self, digest: int, second: int, peer: str) -> int | None:
        """The number of an account that a new host with this digest may have, None where all are in use."""
        start, ways = digest % _SETS * _WAYS, _WAYS_OF_STRANGERS if peer == UNKNOWN_PEER else _WAYS
        return next((at for at in range(start, start + ways) if self._accounts[at].is_idle(second)), None)

    def _account(self, host: str, second: int, peer: str) -> _Account:
        """The host's account, a new one where it has none, or the one of those that find none; under the lock."""
        digest = self._digest(host)
        if (found := self._found(digest)) is not None:
            return found
        if (at := self._idle(digest, second, peer)) is None:
            return self._others
        self._accounts[at].open(host, second)
        self._digests[at] = digest
        return self._accounts[at]


class _Account:
    """What one host has asked for in each of the last seconds, and what was left out of it."""

    __slots__ = ("_name", "_words")

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        self._name = memory[8 * _NAME :]

    @property
    def last_line(self) -> int:
        """The length of its last line, in bytes: what the next one is taken to have."""
        return self._words[_LAST_LINE]

    @last_line.setter
    def last_line(self, size: int) -> None:
        self._words[_LAST_LINE] = size

    def open(self, host: str, second: int) -> None:
        """Begin anew, for this host."""
        name = host.encode(errors="replace")[:_MAX_NAME]
        for word in range(_ACCOUNT):
            self._words[word] = 0
        self._words[_NEWEST], self._words[_NAME_LENGTH] = second, len(name)
        self._name[: len(name)] = name

    def asked_for(self, second: int) -> int:
        """Bytes within the window that ends now."""
        gone = second - self._words[_NEWEST]
        if gone >= _SLOTS:
            return 0
        slots: list[int] = self._words[_SECONDS:_COUNTS].tolist()
        return sum(slots) - sum(slots[(second - ago) % _SLOTS] for ago in range(gone))

    def has_room(self, second: int, size: int, bound: int) -> bool:
        """Whether a line of that length stays within the bound."""
        return self.asked_for(second) + size <= bound * (1 - _RESERVED)

    def add(self, second: int, size: int) -> None:
        """Count so many bytes as asked for."""
        for ago in range(min(second - self._words[_NEWEST], _SLOTS)):
            self._words[_SECONDS + (second - ago) % _SLOTS] = 0
        self._words[_NEWEST] = max(second, self._words[_NEWEST])
        self._words[_SECONDS + second % _SLOTS] += size

    def is_idle(self, second: int) -> bool:
        """Whether nothing that it did matters any more."""
        return not self.asked_for(second) and not any(self._words[_COUNTS:_NAME_LENGTH].tolist())

    def leave_out(self, event: str) -> None:
        """Count a line that isn't written."""
        self._words[_COUNTS + EVENTS.index(event if event in EVENTS else "other")] += 1

    def take_left_out(self) -> LeftOut:
        """The lines left out since this was last asked."""
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
