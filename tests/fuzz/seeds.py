"""Seeds for fuzzing, derived for each parser from the recorded connections of real senders.

The recordings are the only binary corpus. Every parser's seeds are derived from them when they are needed, so that one
new recording serves all targets.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.support import proxy, wire

CORPUS = Path(__file__).parent / "corpus"
"""One file per connection, with the bytes that its requestor sent."""
REGRESSIONS = Path(__file__).parent / "regressions"
"""One folder per target, with inputs that once violated an invariant."""

_HTTP_HEADERS = (
    b"127.0.0.1:11113",
    b"[2001:db8::3]:11113",
    b"localhost",
    b"dicomd.example.org.",
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    b"gzip;q=0.5, deflate",
)
_USER_INFORMATION = 0x50
_WINDOW = bytes.fromhex("5300000400000001")
_ROOT = Path(__file__).parents[2]
_SETTING = re.compile(r"\[|#?[a-z_]+ = ")


def streams() -> dict[str, bytes]:
    """The bytes that each recorded requestor sent, by name of the recording."""
    return {file.stem: file.read_bytes() for file in sorted(CORPUS.glob("*.bin"))}


def with_window(stream: bytes) -> bytes:
    """A recorded connection whose requestor also proposes to have any number of operations outstanding."""
    request = next(wire.pdus(stream))
    at, body = 68, request.body
    while at < len(body):
        kind, end = body[at], at + 4 + int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == _USER_INFORMATION:
            longer = (end - at - 4 + len(_WINDOW)).to_bytes(2, "big")
            changed = body[: at + 2] + longer + body[at + 4 : end] + _WINDOW + body[end:]
            return stream[:2] + len(changed).to_bytes(4, "big") + changed + stream[6 + len(body) :]
        at = end
    return stream


def seeds(target: str) -> list[bytes]:
    """Inputs for a target of `tests.fuzz.targets`: its seeds from the recordings, and inputs that broke it before."""
    folder = REGRESSIONS / target
    known = [file.read_bytes() for file in sorted(folder.iterdir())] if folder.is_dir() else []
    return [*known, *_derived(target)]


def _derived(target: str) -> Iterator[bytes]:
    if target == "proxy_header":
        yield from _proxy_headers()
        return
    if target == "configuration":
        yield from _configurations()
        return
    if target == "http_headers":
        yield from _HTTP_HEADERS
        return
    for stream in streams().values():
        if target == "pdu_reader":
            yield b"\x10" + stream[:4096]
        for pdu in wire.pdus(stream):
            if target == "negotiation" and pdu.type == wire.A_ASSOCIATE_RQ:
                yield pdu.body
        with contextlib.suppress(wire.WireError):
            for message in wire.messages(list(wire.pdus(stream))):
                yield from _of_message(target, message)


def _of_message(target: str, message: wire.Message) -> Iterator[bytes]:
    if target == "command_set":
        yield b"".join(
            b"\0\0" + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
            for number, value in message.command.items()
        )
    elif target == "uid":
        yield message.sop_instance_uid.encode()
    elif target == "data_set_head" and message.data_set is not None:
        head = message.data_set[:2048]
        for syntax in range(3):
            yield bytes([syntax, 7]) + head
    elif target == "whole_data_set" and message.data_set is not None:
        for syntax in range(4):
            yield bytes([syntax]) + message.data_set[:4096]
    elif target == "deflated_head" and message.data_set is not None:
        with contextlib.suppress(zlib.error):
            yield bytes([1, 7]) + zlib.decompressobj(-zlib.MAX_WBITS).decompress(message.data_set, 2048)
            yield bytes([0, 7]) + message.data_set[:2048]
            return
        yield bytes([1, 7]) + message.data_set[:2048]


def _proxy_headers() -> Iterator[bytes]:
    """Each command and family, with and without an extension, and one header of version 1."""
    for command in (proxy.LOCAL, proxy.PROXY):
        for extension in (b"", b"\x04\0\x03abc"):
            yield proxy.header(extension, command=command, family=0)
            yield proxy.header(proxy.ipv4("10.1.2.3") + extension, command=command, family=proxy.TCP4)
            for address in ("2001:db8::3", "::ffff:10.1.2.3"):
                yield proxy.header(proxy.ipv6(address) + extension, command=command, family=proxy.TCP6)
    yield b"PROXY TCP4 10.1.2.3 10.0.0.1 50000 11112\r\n"


def _configurations() -> Iterator[bytes]:
    """The files in etc/ without comments, whole and by table, also with the keys of the reference set."""
    for file in sorted((_ROOT / "etc").glob("*.toml")):
        lines = [line.removeprefix("#") for line in file.read_text().splitlines() if _SETTING.match(line)]
        yield "\n".join(lines).encode()
        starts = [number for number, line in enumerate(lines) if line.startswith("[")]
        for start, end in pairwise([*starts, len(lines)]):
            yield "\n".join(lines[start:end]).encode()
