"""Damaged connections for a running daemon: a bounded number at once, each with its seed, each seen to its end.

The rule it keeps: a connection that the daemon doesn't end, though its peer has said all and closed its side, is a
finding; that one is refused, cut off or reset is none.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence

from tests.fuzz.mutation import mutated

PATIENCE = 60.0
"""Seconds for the daemon to end a connection whose peer has closed its side, on a busy machine."""


class Barrage:
    """Sends the connections with these seeds to `address`, from `at_once` threads."""

    def __init__(self, address: tuple[str, int], streams: Sequence[bytes], seeds: range, *, at_once: int = 6) -> None:
        self._address, self._streams, self._seeds = address, streams, iter(seeds)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name="barrage") for _ in range(at_once)]
        self.ends: Counter[str] = Counter()
        """How the connections ended."""
        self.hanging: list[int] = []
        """Seeds of connections that the daemon did not end."""

    def run(self) -> None:
        """Send all of them, and return when the last has ended."""
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
        """One in eight is reset, one in eight closed without a look at the answer; the others listen to the end."""
        data = mutated(self._streams, seed)
        try:
            with socket.create_connection(self._address, timeout=PATIENCE) as sock:
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
        except OSError:  # the daemon was done with it before all was sent
            return "reset by the daemon"
