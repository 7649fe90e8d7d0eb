"""Damaged connections for a running daemon: a bounded number at once, each with a seed and followed to its end.

A connection is a finding if the daemon doesn't end it although its peer has sent everything and closed its side. It is
no finding if the daemon refuses, cuts or resets it.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence

from tests.fuzz.mutation import mutated

TIMEOUT = 60.0
"""Seconds within which a busy daemon must end a connection whose peer has closed its side."""


class Barrage:
    """Sends the connections with these seeds to `address`, from `at_once` threads."""

    def __init__(self, address: tuple[str, int], streams: Sequence[bytes], seeds: range, *, at_once: int = 6) -> None:
        self._address, self._streams, self._seeds = address, streams, iter(seeds)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name="barrage") for _ in range(at_once)]
        self.ends: Counter[str] = Counter()
        """The number of connections by the way in which they ended."""
        self.hanging: list[int] = []
        """Seeds of connections that the daemon did not end."""

    def run(self) -> None:
        """Send all connections, and return when the last one has ended."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._seeds, None)

    def _run(self) -> None:
        while (seed := self._next()) is not None:
            end = self._connection(seed)
            with self._lock:
                self.ends[end] += 1
                if end == "hanging":
                    self.hanging.append(seed)

    def _connection(self, seed: int) -> str:
        """One in eight is reset, one in eight closed without reading the answer; the others read to the end."""
        data = mutated(self._streams, seed)
        try:
            with socket.create_connection(self._address, timeout=TIMEOUT) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                cut = seed * 7919 % (len(data) + 1)
                for piece in (data[:cut], data[cut:]):
                    sock.sendall(piece)
                if seed % 8 == 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return "reset here"
                if seed % 8 == 1:
                    return "closed here"
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
                return "closed by the daemon"
        except TimeoutError:
            return "hanging"
        except OSError:  # the daemon ended it before everything was sent
            return "reset by the daemon"
