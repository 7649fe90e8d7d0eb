"""A hostile crowd: connections that stay silent, stall in a TLS handshake, or drip bytes, all from one process.

Invariant: no connection closes first or reacts to an A-ABORT; each stays until the receiver closes it. It is then
replaced by a new one, so that the crowd keeps its size, until `let_go` stops the replacing.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Literal, Self

from bench.encoding import A_ASSOCIATE_AC, InstanceStream, associate_rq
from bench.errors import BenchError
from bench.proposals import request as expensive_request

REQUEST_TIMEOUT = 10.0
"""dicomd's default: ARTIM, from the connection to the A-ASSOCIATE-RQ, and from an A-ABORT to the end."""
RATE_WINDOW = 30.0
"""Seconds over which the minimum rate is averaged."""
TICK = 0.1
DRIP_EVERY = 1.0
ANSWER_WITHIN = 30.0

Order = Literal["report", "let go", "leave"]


@dataclass(frozen=True)
class Kind:
    """`count` connections of a kind, to the TLS or the plain listener, that must be cut after `deadline` seconds.

    Each sends `opening`, then `message` if it gets an A-ASSOCIATE-AC, and from then on `drop` bytes of `drips` per
    second.
    """

    name: str
    count: int
    tls: bool
    deadline: float
    opening: bytes = b""
    message: bytes = b""
    drips: bytes = b""
    drop: int = 1


@dataclass
class Tally:
    """The outcome for one kind; `earliest` and `latest` are the seconds from a deadline to the cut."""

    opened: int = 0
    cut: int = 0
    refused: int = 0
    earliest: float = float("inf")
    latest: float = float("-inf")


def client_hello() -> bytes:
    """Make the first bytes of a TLS requestor with this Python."""
    arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(arrived, leaving, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return leaving.read()
    raise AssertionError("a handshake without an answer")


def kinds() -> list[Kind]:
    """Return the crowd: 500 silent connections, 100 stalled handshakes, 100 that drip.

    Those that drip an object propose as expensively as may be: 127 of 128 contexts with 128 Transfer Syntaxes each are
    refused.
    """
    hello, request = client_hello(), associate_rq("ANY-SCP", "CROWD")
    message = bytes(InstanceStream.encode(1 << 16, 0).first)
    begun = 6 + int.from_bytes(message[2:6], "big") + 12  # the command's PDU, and the headers of the Data Set's
    return [
        Kind("silent, plain", 250, tls=False, deadline=REQUEST_TIMEOUT),
        Kind("silent, TLS", 250, tls=True, deadline=REQUEST_TIMEOUT),
        Kind("stalled after the ClientHello", 50, tls=True, deadline=REQUEST_TIMEOUT, opening=hello),
        Kind("stalled in the ClientHello", 50, tls=True, deadline=REQUEST_TIMEOUT, opening=hello[: len(hello) // 2]),
        Kind("drips of an A-ASSOCIATE-RQ", 25, tls=False, deadline=REQUEST_TIMEOUT, drips=request),
        Kind("drips of a ClientHello", 25, tls=True, deadline=REQUEST_TIMEOUT, drips=hello),
        Kind(
            "drips of an object",
            50,
            tls=False,
            # From the beginning of the message to the A-ABORT, and then ARTIM, since the crowd doesn't close either.
            deadline=RATE_WINDOW + REQUEST_TIMEOUT,
            opening=expensive_request(accepted=True),
            message=message[:begun],
            drips=message[begun:],
            drop=60,
        ),
    ]


@dataclass
class _Member:
    kind: Kind
    sock: socket.socket
    began: float = 0.0
    connected: bool = False
    dripped: int = -1  # below 0: not dripping yet
    due: float = field(default=0.0)
    unsent: memoryview = field(default=memoryview(b""))


class _Members:
    """The connections, and the event loop that serves them."""

    def __init__(self, kinds: Sequence[Kind], ports: tuple[int, int], control: Connection) -> None:
        self._ports, self._control = ports, control
        self._tallies = {kind.name: Tally() for kind in kinds}
        self._dripping: set[int] = set()
        self._members: dict[int, _Member] = {}
        self._renewed = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        for kind in kinds:
            for _ in range(kind.count):
                self._open(kind)

    def serve(self) -> None:
        """Serve the connections until the order to leave."""
        next_drip = time.monotonic()
        while True:
            for key, _ in self._selector.select(max(0.0, next_drip - time.monotonic())):
                if key.fileobj is not self._control:
                    self._happened(self._members[key.fd])
                elif not self._obey(self._control.recv()):
                    return
            if time.monotonic() >= next_drip:
                next_drip = time.monotonic() + TICK
                for fd in list(self._dripping):
                    self._drip(self._members[fd])

    def _obey(self, order: Order) -> bool:
        if order == "leave":
            for member in list(self._members.values()):
                self._close(member)
        elif order == "let go":
            self._renewed = False
        self._control.send((self._tallies, sum(member.connected for member in self._members.values())))
        return order != "leave"

    def _open(self, kind: Kind) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        member = _Member(kind, sock)
        self._members[sock.fileno()] = member
        self._selector.register(sock, selectors.EVENT_WRITE)
        if (trouble := sock.connect_ex(("127.0.0.1", self._ports[kind.tls]))) not in (0, errno.EINPROGRESS):
            raise BenchError(f"{kind.name}: {errno.errorcode[trouble]}")

    def _happened(self, member: _Member) -> None:
        try:
            if not member.connected:
                self._connected(member)
            elif member.unsent:
                self._send_rest(member)
            elif not (data := member.sock.recv(65536)):
                self._cut(member)
            elif member.kind.message and member.dripped < 0:
                self._answered(member, data[0])
        except OSError:
            self._cut(member)

    def _connected(self, member: _Member) -> None:
        if trouble := member.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(trouble, errno.errorcode[trouble])
        member.connected, member.began = True, time.monotonic()
        self._tallies[member.kind.name].opened += 1
        member.unsent = memoryview(member.kind.opening)
        self._send_rest(member)
        if member.kind.drips and not member.kind.message:
            self._begin_to_drip(member)

    def _send_rest(self, member: _Member) -> None:
        """Send as much of the opening as the receiver takes now; only then look for what it says."""
        with contextlib.suppress(BlockingIOError):
            member.unsent = member.unsent[member.sock.send(member.unsent) :]
        self._selector.modify(member.sock, selectors.EVENT_WRITE if member.unsent else selectors.EVENT_READ)

    def _answered(self, member: _Member, pdu_type: int) -> None:
        if pdu_type != A_ASSOCIATE_AC:
            self._tallies[member.kind.name].refused += 1
            return
        member.began = time.monotonic()
        member.sock.send(member.kind.message)
        self._begin_to_drip(member)

    def _begin_to_drip(self, member: _Member) -> None:
        member.dripped = 0
        self._dripping.add(member.sock.fileno())

    def _drip(self, member: _Member) -> None:
        now = time.monotonic()
        if now < member.due:
            return
        member.due = now + DRIP_EVERY
        kind, at = member.kind, member.dripped
        member.dripped += kind.drop
        try:
            member.sock.send(kind.drips[at : at + kind.drop])
        except OSError:
            self._cut(member)

    def _cut(self, member: _Member) -> None:
        tally = self._tallies[member.kind.name]
        late = time.monotonic() - member.began - member.kind.deadline
        if member.connected:
            tally.cut += 1
            tally.earliest, tally.latest = min(tally.earliest, late), max(tally.latest, late)
        self._close(member)
        if self._renewed:
            self._open(member.kind)

    def _close(self, member: _Member) -> None:
        fd = member.sock.fileno()
        self._selector.unregister(member.sock)
        self._dripping.discard(fd)
        del self._members[fd]
        member.sock.close()


def _serve(kinds: Sequence[Kind], ports: tuple[int, int], control: Connection) -> None:
    _Members(kinds, ports, control).serve()


class Crowd:
    """A crowd in a process of its own, as a context manager that closes all connections at the end of the block."""

    def __init__(self, kinds: Sequence[Kind], plain: int, tls: int) -> None:
        """Connect the `kinds` to the ports of a plain and a TLS listener."""
        self.size = sum(kind.count for kind in kinds)
        context = multiprocessing.get_context("spawn")  # the caller may have threads
        self._control, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(kinds, (plain, tls), there), daemon=True)
        self._process.start()
        there.close()
        self.pid = self._process.pid or 0

    def report(self) -> tuple[dict[str, Tally], int]:
        """Return the outcome for each kind so far, and how many connections are open."""
        return self._say("report")

    def let_go(self) -> None:
        """From now on, don't replace connections that are cut."""
        self._say("let go")

    def wait_for(self, connections: int, within: float) -> dict[str, Tally]:
        """Wait until so many connections are open; return the outcome for each kind. Raises BenchError."""
        ends = time.monotonic() + within
        while True:
            tallies, found = self.report()
            if found == connections:
                return tallies
            if time.monotonic() > ends:
                raise BenchError(f"{found} connections of the crowd are open after {within:.0f} s, not {connections}")
            time.sleep(TICK)

    def _say(self, order: Order) -> tuple[dict[str, Tally], int]:
        try:
            self._control.send(order)
            if not self._control.poll(ANSWER_WITHIN):
                raise BenchError(f"the crowd did not answer within {ANSWER_WITHIN:.0f} s")
            answer: tuple[dict[str, Tally], int] = self._control.recv()
        except (EOFError, OSError) as error:
            raise BenchError("the crowd's process has died") from error
        return answer

    def __enter__(self) -> Self:
        """Return the crowd, which may still be connecting."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the crowd's process."""
        try:
            self._say("leave")
        except BenchError:
            self._process.kill()
        self._process.join()
        self._control.close()
