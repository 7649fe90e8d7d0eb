"""A raw DICOM requestor that costs almost nothing, so that the receiver is what is measured and not the sender.

Sending an instance takes one sendall (a large one repeats the same block) and reading one response. It proposes CT
Image Storage and Verification in Explicit VR Little Endian, and uses only the standard library:

    python3 -m bench.blast 11112 --count 200 --side-by-side 4

Timing begins when all senders have opened their first Association and encoded their data, and ends when the last
response has arrived (or the last A-RELEASE-RP, if Associations are counted).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import socket
import ssl
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Literal

from bench.encoding import (
    A_ASSOCIATE_AC,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
    STORAGE_CONTEXT,
    VERIFICATION_CONTEXT,
    InstanceStream,
    accepted,
    answer_of,
    associate_rq,
    c_echo_rq,
    p_data_tf,
)
from bench.errors import BlastError

Work = Literal["store", "echo", "nothing"]


@dataclass(frozen=True)
class Receiver:
    """The receiver's address, and the AE Titles to use. `tls` is a CA file; `timeout` in seconds without progress."""

    port: int
    host: str = "127.0.0.1"
    called: str = "ANY-SCP"
    calling: str = "BLAST"
    tls: str = ""
    certificate: str = ""
    key: str = ""
    timeout: float = 120.0


class Association:
    """An open Association on a blocking socket."""

    def __init__(self, receiver: Receiver, window: int = 1) -> None:
        """Connect and negotiate; propose a `window` above 1. Raises BlastError if refused, OSError if not connected."""
        self.sock: socket.socket = socket.create_connection((receiver.host, receiver.port), timeout=receiver.timeout)
        try:
            self.maximum_length, self.window = self._open(receiver, window)
        except BaseException:
            self.sock.close()
            raise

    def _open(self, receiver: Receiver, window: int) -> tuple[int, int]:
        if receiver.tls:
            context = ssl.create_default_context(cafile=receiver.tls)
            context.check_hostname = False
            if receiver.certificate:
                context.load_cert_chain(receiver.certificate, receiver.key)
            self.sock = context.wrap_socket(self.sock)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(associate_rq(receiver.called, receiver.calling, window))
        kind, body = self.read_pdu()
        if kind != A_ASSOCIATE_AC:
            raise BlastError(f"the Association was refused: PDU type {kind}, {body.hex()}")
        return accepted(body, (STORAGE_CONTEXT, VERIFICATION_CONTEXT))

    def read_exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes. Raises BlastError if the receiver closes first."""
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise BlastError("the receiver closed the connection")
            data += chunk
        return data

    def read_pdu(self) -> tuple[int, bytes]:
        """Read one PDU: its type and body."""
        # Without QUICKACK, a receiver that writes header and body of a response separately would take 40 ms for each.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        kind, length = struct.unpack(">BxI", self.read_exactly(6))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return kind, self.read_exactly(length)

    def read_answer(self) -> tuple[int, int]:
        """Read the next response and return the Message ID of its request, and its Status."""
        kind, body = self.read_pdu()
        if kind != P_DATA_TF:
            raise BlastError(f"PDU type {kind} instead of a response: {body.hex()}")
        return answer_of(body)

    def store(self, stream: InstanceStream) -> int:
        """Send one C-STORE and return its Status."""
        stream.send(self.sock)
        return self.read_answer()[1]

    def echo(self) -> int:
        """Send one C-ECHO and return its Status."""
        self.sock.sendall(p_data_tf(c_echo_rq(), 3, VERIFICATION_CONTEXT))
        return self.read_answer()[1]

    def release(self) -> None:
        """Release the Association and close the connection."""
        try:
            self.sock.sendall(struct.pack(">BBII", A_RELEASE_RQ, 0, 4, 0))
            kind, _ = self.read_pdu()
            if kind != A_RELEASE_RP:
                raise BlastError(f"PDU type {kind} instead of an A-RELEASE-RP")
        finally:
            self.sock.close()

    def abandon(self) -> None:
        """Close the connection without release or abort."""
        self.sock.close()


@dataclass(frozen=True)
class Order:
    """What each sender does: `count` pieces of `work`.

    It opens a new Association after every `per_association` of them (0: one for all), and begins no new piece after
    `at_most` seconds (0: no limit). A piece of "nothing" is opening and releasing an Association.
    """

    work: Work = "store"
    count: int = 100
    size: int = 524288
    per_association: int = 0
    at_most: float = 0.0
    window: int = 1
    """How many instances it sends before it waits for the response of one of them, all over one Association."""


@dataclass
class Tally:
    """What one sender did: when it began and ended (monotonic), its CPU time, and the seconds that each piece took."""

    began: float
    maximum_length: int
    ended: float = 0.0
    cpu: float = 0.0
    failed: int = 0
    associations: int = 1
    taken: list[float] = field(default_factory=list)


def perform(order: Order, receiver: Receiver, start: Barrier | None = None) -> Tally:
    """Carry out `order`. Raises BlastError and OSError; a failure Status is only counted."""
    association = Association(receiver, order.window)
    stream = InstanceStream.encode(order.size, association.maximum_length) if order.work == "store" else None
    each = order.per_association or (1 if order.work == "nothing" else 0)
    if order.work == "nothing":  # opening is what is measured, so none may be open when the clock starts
        association.release()
    if start is not None:
        start.wait(receiver.timeout)
    tally = Tally(time.monotonic(), association.maximum_length, associations=int(order.work != "nothing"))
    cpu = time.process_time()
    if stream is not None and order.window > 1:
        _overlap(order, association, stream, tally)
        tally.ended = time.monotonic()
        association.release()
        tally.cpu = time.process_time() - cpu
        return tally
    for index in range(order.count):
        began = time.monotonic()
        if order.at_most and began - tally.began >= order.at_most:
            break
        if each and (index or order.work == "nothing") and index % each == 0:
            if order.work != "nothing":
                association.release()
            association = Association(receiver)
            tally.associations += 1
        if stream is not None:
            stream.renew()
            tally.failed += association.store(stream) != 0
        elif order.work == "echo":
            tally.failed += association.echo() != 0
        else:
            association.release()
        tally.taken.append(time.monotonic() - began)
    if each and order.work != "nothing":  # when Associations are counted, the last release is part of the work
        association.release()
        tally.ended = time.monotonic()
    else:
        tally.ended = time.monotonic()
        if order.work != "nothing":
            association.release()
    tally.cpu = time.process_time() - cpu
    return tally


def _overlap(order: Order, association: Association, stream: InstanceStream, tally: Tally) -> None:
    """Store with as many instances outstanding as both sides agreed on. Raises BlastError for a wrong response."""
    window = association.window or order.window
    outstanding: dict[int, float] = {}  # Message ID → when it was sent

    def read_one() -> None:
        message_id, status = association.read_answer()
        began = outstanding.pop(message_id, None)
        if began is None:
            raise BlastError(f"a response to Message ID {message_id}, which isn't outstanding")
        tally.failed += status != 0
        tally.taken.append(time.monotonic() - began)

    for index in range(order.count):
        if order.at_most and time.monotonic() - tally.began >= order.at_most:
            break
        if len(outstanding) >= window:
            read_one()
        message_id = index % 0xFFFF + 1
        if message_id in outstanding:
            raise BlastError(f"no response to Message ID {message_id} among the last 65,535")
        stream.renew(message_id)
        outstanding[message_id] = time.monotonic()
        stream.send(association.sock)
    while outstanding:
        read_one()


def _sender(order: Order, receiver: Receiver, start: Barrier, answer: Connection) -> None:
    try:
        answer.send(perform(order, receiver, start))
    except Exception as error:  # of any kind: the parent reports it and stops the others
        start.abort()
        answer.send(f"{type(error).__name__}: {error}")


def _tallies(order: Order, receiver: Receiver, side_by_side: int) -> list[Tally]:
    context = multiprocessing.get_context("spawn")  # the caller may have threads
    start = context.Barrier(side_by_side)
    senders = []
    for _ in range(side_by_side):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_sender, args=(order, receiver, start, there))
        process.start()
        there.close()
        senders.append((process, here))
    answers: list[Tally | str] = []
    waiting = [here for _, here in senders]
    try:
        while waiting:
            ready = multiprocessing.connection.wait(waiting)
            for here in [one for one in waiting if one in ready]:
                waiting.remove(here)
                try:
                    answers.append(here.recv())
                except EOFError:
                    answers.append("a sender died")
    finally:
        for process, _ in senders:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
    troubles = [answer for answer in answers if isinstance(answer, str)]
    if troubles:  # a broken barrier is only a consequence of the first failure
        raise BlastError(next((t for t in troubles if "BrokenBarrier" not in t), troubles[0]))
    return [answer for answer in answers if isinstance(answer, Tally)]


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the ascending values lie (nearest rank); 0.0 if there are none."""
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)] if ordered else 0.0


def blast(order: Order, receiver: Receiver, side_by_side: int = 1) -> dict[str, float | int | str]:
    """Carry out `order` with `side_by_side` senders, each in a process of its own, and return the results.

    Rates are per second, times in seconds or milliseconds as their names say. Raises BlastError if any sender fails.
    """
    tallies = _tallies(order, receiver, side_by_side)
    seconds = max(t.ended for t in tallies) - min(t.began for t in tallies)
    taken = sorted(t for tally in tallies for t in tally.taken)
    stored_bytes = len(taken) * order.size if order.work == "store" else 0
    return {
        "work": order.work,
        "count": len(taken),
        "side_by_side": side_by_side,
        "associations": sum(t.associations for t in tallies),
        "size": order.size,
        "maximum_length": tallies[0].maximum_length,
        "failed": sum(t.failed for t in tallies),
        "seconds": round(seconds, 6),
        "per_s": round(len(taken) / seconds, 2),
        "senders_cores": round(sum(t.cpu for t in tallies) / seconds, 3),
        "mb_per_s": round(stored_bytes / seconds / 1e6, 2),
        "p50_ms": round(percentile(taken, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(taken, 0.99) * 1e3, 3),
    }


def main() -> int:
    """Run the command line; return 1 if a Status was not Success or a sender failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("-n", "--count", type=int, default=100, help="pieces of work per sender (default 100)")
    parser.add_argument("-c", "--side-by-side", type=int, default=1, help="senders, each in its own process")
    parser.add_argument("--work", choices=("store", "echo", "nothing"), default="store")
    parser.add_argument("--size", type=int, default=524288, help="bytes of Pixel Data, even (default 512 KiB)")
    parser.add_argument("--per-association", type=int, default=0, help="pieces per Association (default: all)")
    parser.add_argument("--window", type=int, default=1, help="instances outstanding on an Association (default 1)")
    parser.add_argument("--at-most", type=float, default=0.0, metavar="SECONDS", help="begin no more work after that")
    parser.add_argument("--called", default="ANY-SCP")
    parser.add_argument("--calling", default="BLAST")
    parser.add_argument("--tls", default="", metavar="CA.pem")
    parser.add_argument("--certificate", default="", metavar="FILE", help="the requestor's certificate, with --tls")
    parser.add_argument("--key", default="", metavar="FILE")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without progress (default 120)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.window > 1 and (args.work != "store" or args.per_association):
        parser.error("--window is for instances over one Association")
    order = Order(args.work, args.count, args.size & ~1, args.per_association, args.at_most, args.window)
    receiver = Receiver(
        args.port, args.host, args.called, args.calling, args.tls, args.certificate, args.key, args.timeout
    )
    try:
        figures = blast(order, receiver, args.side_by_side)
    except (BlastError, OSError) as error:
        print(f"blast: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures) if args.json else "  ".join(f"{k}={v}" for k, v in figures.items()))
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
