"""Decides from a trace whether an instance was durable when its success was sent, for any order of system calls.

The trace is replayed on a model of the store's folders, in which a name is durable from the end of a sync of its folder
that began after the name was there, and a file's contents from the end of a sync of the file that began after its last
write. So it doesn't matter which thread synced, by which call, or whether folders were moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from tests.crash.strace import Call
from tests.support import wire
from tests.support.wire import Message

_RESPONSE: Final = 0x8000  # the bit that distinguishes a response from its request (PS3.7 §E.1)
TRACED: Final = (
    "openat", "mkdir", "mkdirat", "link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
    "write", "writev", "pwrite64", "pwritev", "fsync", "fdatasync", "syncfs", "sendto",
)  # fmt: skip


@dataclass(eq=False)
class Node:
    """A file or a folder: its entries and when each was made, its last write, and its syncs (begin, end)."""

    entries: dict[str, tuple[Node, int]] = field(default_factory=dict)
    written: int = -1
    syncs: list[tuple[int, int]] = field(default_factory=list)

    def synced(self, after: int) -> float:
        """When a change made at `after` became durable: the end of the first sync that began later."""
        return min((end for begin, end in self.syncs if begin > after), default=math.inf)


class Replay:
    """The folders below `root` as a trace changes them. Older entries count as durable and are added when needed."""

    def __init__(self, root: str) -> None:
        self._root = PurePath(root)
        self._tree = Node()
        self._everything: list[tuple[int, int]] = []

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Message]]:
        """Yield each C-STORE-RSP with the time at which its sending began, after replaying all calls ended by then."""
        events = sorted(
            [(call.begun, False, call) for call in calls] + [(call.ended, True, call) for call in calls],
            key=lambda event: event[:2],
        )
        aims: dict[int, Node] = {}
        for moment, over, call in events:
            if not over:
                if call.name in ("fsync", "fdatasync", "syncfs") or "write" in call.name:
                    if self._inside(call.descriptor):
                        aims[id(call)] = self._find(call.descriptor)
                elif call.name == "sendto":
                    yield from ((moment, message) for message in _responses(call.data))
            elif call.succeeded:
                self._apply(call, aims.pop(id(call), None))

    def durable_since(self, path: str) -> tuple[float, str]:
        """When a file that is there now became durable, and the last condition that was needed for it."""
        node, since, waited = self._tree, -1.0, ""
        for name in PurePath(path).relative_to(self._root).parts:
            entry, made = node.entries[name]
            if made >= 0 and (synced := self._earliest(node, made)) > since:
                since, waited = synced, f"the entry {name}"
            node = entry
        if node.written >= 0 and (synced := self._earliest(node, node.written)) > since:
            since, waited = synced, "the data"
        return since, waited

    def data_durable_before_published(self, path: str) -> bool:
        """Whether the file had no name outside .dicomd before its data was durable."""
        *folders, name = PurePath(path).relative_to(self._root).parts
        node = self._tree
        for folder in folders:
            node = node.entries[folder][0]
        file, made = node.entries[name]
        return file.written < 0 or self._earliest(file, file.written) < made

    def _earliest(self, node: Node, after: int) -> float:
        return min([node.synced(after), *(end for begin, end in self._everything if begin > after)])

    def _apply(self, call: Call, aim: Node | None) -> None:
        match call.name:
            case "fsync" | "fdatasync" if aim is not None:
                aim.syncs.append((call.begun, call.ended))
            case "syncfs" if aim is not None:
                self._everything.append((call.begun, call.ended))
            case "write" | "writev" | "pwrite64" | "pwritev" if aim is not None:
                aim.written = call.ended
            case "mkdir" | "mkdirat":
                self._enter(call.paths[0], Node(), call.ended)
            case "openat" if "O_CREAT" in call.arguments and self._inside(call.paths[0]):
                if "O_EXCL" in call.arguments or not self._has(call.paths[0]):
                    self._enter(call.paths[0], Node(), call.ended)
            case "link" | "linkat":
                old, new = call.paths
                self._enter(new, self._find(old), call.ended)
            case "rename" | "renameat" | "renameat2":
                old, new = call.paths
                if self._inside(old) and self._inside(new):
                    self._enter(new, self._find(old), call.ended)
                    self._leave(old)
            case "unlink" | "unlinkat" | "rmdir":
                self._leave(call.paths[0])
            case _:
                pass

    def _inside(self, path: str) -> bool:
        return PurePath(path).is_relative_to(self._root)

    def _find(self, path: str) -> Node:
        node = self._tree
        for name in PurePath(path).relative_to(self._root).parts:
            node = node.entries.setdefault(name, (Node(), -1))[0]
        return node

    def _has(self, path: str) -> bool:
        node = self._tree
        for name in PurePath(path).relative_to(self._root).parts:
            if name not in node.entries:
                return False
            node = node.entries[name][0]
        return True

    def _enter(self, path: str, node: Node, moment: int) -> None:
        if self._inside(path):
            self._find(str(PurePath(path).parent)).entries[PurePath(path).name] = (node, moment)

    def _leave(self, path: str) -> None:
        if self._inside(path):
            self._find(str(PurePath(path).parent)).entries.pop(PurePath(path).name, None)


def _responses(data: bytes) -> Iterator[Message]:
    """The C-STORE-RSPs in sent data: dicomd writes each with one call."""
    if data[:1] != bytes([wire.P_DATA_TF]):
        return
    for message in wire.messages(list(wire.pdus(data))):
        if message.command_field == wire.C_STORE_RQ | _RESPONSE:
            yield message
