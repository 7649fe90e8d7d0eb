"""Measures what the most expensive A-ASSOCIATE-RQs cost a normal sender: ./scripts/bench --proposals.

In each turn the sender works beside 64 connections that send such requests to dicomd, and beside the same connections
to a process that only reads and rejects. Both rates include what the connections themselves cost the machine, so they
differ only by what dicomd's handling of the requests costs.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from bench import blast, processes
from bench.encoding import APPLICATION_CONTEXT, CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, item
from bench.errors import BenchError, BlastError
from bench.receivers import Dicomd, Running, running
from bench.report import number, table, times
from bench.scratch import Scratch

CONNECTIONS: Final = 64
SIZE: Final = 4096
SECONDS: Final = 6.0
SETTLES: Final = 2.0  # seconds from the attack's begin to the sender's, and from its end to the next one's
RESTS: Final = 15.0  # seconds after the last: idle threads have ended by then
KEEPS, GROWTH = 0.5, 1.2
_MARK: Final = b"V" * 12
_REJECTION: Final = bytes.fromhex("03 00 00000004 00 01 01 01")
_ABORT: Final = bytes.fromhex("07 00 00000004 00000000")
_LISTED: Final = (
    "[[peers]]", 'name = "blast"', 'ae_titles = ["BLAST"]',
    "[[peers]]", 'name = "crowd"', 'ae_titles = ["CROWD"]', 'allow = ["echo"]', f"associations = {CONNECTIONS}",
)  # fmt: skip
SENT_BY: Final = {"strangers where everybody may store": (), "strangers beside peers": _LISTED[:3], "a peer": _LISTED}


def request(*, accepted: bool = False) -> bytes:
    """128 Presentation Contexts of a supported Abstract Syntax, 128 Transfer Syntaxes in each, no list like another.

    No Transfer Syntax is one of the standard's, but with `accepted` the first context's first, Explicit VR Little
    Endian: the others are refused and the Association is open.
    """
    contexts = b"".join(
        item(
            0x20,
            bytes((2 * context + 1, 0, 0, 0))
            + item(0x30, CT_IMAGE_STORAGE)
            + b"".join(item(0x40, uid) for uid in _syntaxes(context, accepted=accepted and not context)),
        )
        for context in range(128)
    )
    user = item(0x51, struct.pack(">I", 0)) + item(0x52, b"2.25.1") + item(0x55, _MARK)
    body = struct.pack(">HH16s16s32x", 1, 0, b"ANY-SCP".ljust(16), b"CROWD".ljust(16))
    body += item(0x10, APPLICATION_CONTEXT) + contexts + item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _syntaxes(context: int, *, accepted: bool) -> Iterator[bytes]:
    for syntax in range(128):
        yield EXPLICIT_VR_LITTLE_ENDIAN if accepted and not syntax else f"1.2.{syntax}.{context}".encode()


def _attack(port: int, _control: Connection) -> None:
    """Forever, each with another Implementation Version Name, so that no answer to a whole request fits again."""
    sent = request()
    at = sent.index(_MARK)

    def connect(member: int) -> None:
        count = 0
        while True:
            count += 1
            name = f"{member:04}{count:08}".encode()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(sent[:at] + name + sent[at + len(name) :])
                sock.recv(6)
                sock.sendall(_ABORT)

    members = [threading.Thread(target=connect, args=(member,), daemon=True) for member in range(CONNECTIONS)]
    for member in members:
        member.start()
    members[0].join()


def _reject(_port: int, control: Connection) -> None:
    """Read each request whole and reject it."""

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            left = int.from_bytes(sock.recv(6, socket.MSG_WAITALL)[2:], "big")
            while left and (got := len(sock.recv(min(left, 65536)))):
                left -= got
            sock.sendall(_REJECTION)

    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    control.send(listener.getsockname()[1])
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


@contextmanager
def _process(work: Callable[[int, Connection], None], port: int = 0) -> Iterator[Connection]:
    """`work` in a process of its own, or it would slow the sender that is measured."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(port, there), daemon=True)
    process.start()
    try:
        yield here
    finally:
        process.kill()
        process.join()


class Guarded(Dicomd):
    """dicomd with default limits and these lines of configuration."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("none")
        self.limits = tuple(lines)


@dataclass
class Attacked:
    """The sender's objects a second in each turn, and the workers' memory in bytes before and after."""

    beside_rejections: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    memory_before: int = 0
    memory_after: int = 0

    @property
    def keeps(self) -> float:
        """The median of the turns' ratios."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.beside, self.beside_rejections, strict=True)
        )


def _rate(started: Running, seconds: float) -> float:
    try:
        figures = blast.blast(blast.Order("store", 10**9, SIZE, at_most=seconds), started.place.address)
    except (BlastError, OSError) as error:
        raise BenchError(f"the sender: {error}") from error
    if figures["failed"]:
        raise BenchError(f"{figures['failed']} requests of the sender failed")
    return float(figures["per_s"])


def _attacked(started: Running, turns: int, seconds: float, say: Callable[[str], None]) -> Attacked:
    found = Attacked()
    _rate(started, seconds)
    found.memory_before = processes.memory(started.pid)
    with _process(_reject) as rejects:
        harmless = int(rejects.recv())
        for turn in range(1, turns + 1):
            for port, rates in ((harmless, found.beside_rejections), (started.place.port, found.beside)):
                with _process(_attack, port):
                    time.sleep(SETTLES)
                    rates.append(_rate(started, seconds))
                time.sleep(SETTLES)
            say(f"turn {turn}/{turns}  {found.beside_rejections[-1]:,.0f} and {found.beside[-1]:,.0f} objects/s")
    time.sleep(RESTS)
    found.memory_after = processes.memory(started.pid)
    return found


def run(turns: int, scale: float, scratch: Path, say: Callable[[str], None]) -> dict[str, Attacked]:
    """What each kind of requestor costs. Raises BenchError."""
    place, found = Scratch(scratch), {}
    try:
        for name, lines in SENT_BY.items():
            say(f"{name}:")
            with running(Guarded(lines), place) as started:
                found[name] = _attacked(started, turns, SECONDS * scale, say)
    finally:
        place.remove()
    return found


def page(found: dict[str, Attacked]) -> str:
    """The rates, and what had to be shown."""
    rows = [
        [
            name,
            number(statistics.median(one.beside_rejections), 0),
            number(statistics.median(one.beside), 0),
            times(one.keeps),
            "met" if one.keeps >= KEEPS else "not met",
            times(one.memory_after / one.memory_before),
            "met" if one.memory_after <= GROWTH * one.memory_before else "not met",
        ]
        for name, one in found.items()
    ]
    header = [
        "requests from",
        "beside rejections, /s",
        "beside, /s",
        f"keeps, ≥ {KEEPS:g}",
        "",
        f"memory, ≤ {GROWTH:g}",
        "",
    ]
    return table(header, rows)


def to_json(found: dict[str, Attacked]) -> str:
    """Every figure."""
    return json.dumps({name: asdict(one) for name, one in found.items()}, indent=1) + "\n"
