"""`dicomd verify-store` finds nothing wrong with what dicomd has stored as it was received, with or without checksums.

Each Data Set here is one that senders send and readers cope with. The daemon may refuse it, but what it stores is well.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest

from tests.daemon.conftest import Connect, StartDaemon
from tests.support.encoding import element
from tests.support.objects import (
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_BASELINE,
    Instance,
    data_set,
    encode,
    new_uid,
)

Make = Callable[[str], bytes]
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
JPIP_DEFLATED = "1.2.840.10008.1.2.4.95"
PAPYRUS = "1.2.840.10008.1.20"
GE_PRIVATE = "1.2.840.113619.5.2"


def _encoded(uid: str, syntax: str = EXPLICIT_LITTLE) -> bytes:
    return encode(data_set(uid), syntax)


def _head(uid: str, syntax: str = EXPLICIT_LITTLE) -> bytes:
    ds = data_set(uid)
    del ds.PixelData
    return encode(ds, syntax)


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _undefined(group: int, number: int, vr: bytes, *parts: bytes) -> bytes:
    return struct.pack("<HH2sHI", group, number, vr, 0, 0xFFFFFFFF) + b"".join(parts)


def _item(number: int, length: int) -> bytes:
    return struct.pack("<HHI", 0xFFFE, number, length)


ITEM, OPEN_ITEM = _item(0xE000, 10) + bytes(10), _item(0xE000, 0xFFFFFFFF)
ITEM_END, SEQUENCE_END = _item(0xE00D, 0), _item(0xE0DD, 0)
UID_REFERENCE = element(0x00081150, "UI", CT_IMAGE_STORAGE)

KINDS: dict[str, tuple[str, Make]] = {
    "explicit": (EXPLICIT_LITTLE, _encoded),
    "implicit": (IMPLICIT_LITTLE, lambda uid: _encoded(uid, IMPLICIT_LITTLE)),
    "big endian": (EXPLICIT_BIG, lambda uid: _encoded(uid, EXPLICIT_BIG)),
    "deflated": (DEFLATED, lambda uid: _deflated(_encoded(uid))),
    "deflated, with a byte behind": (DEFLATED, lambda uid: _deflated(_encoded(uid)) + b"\0"),
    "JPIP Referenced Deflate": (JPIP_DEFLATED, lambda uid: _deflated(_head(uid))),
    "Papyrus 3": (PAPYRUS, lambda uid: _encoded(uid, IMPLICIT_LITTLE)),
    "GE's private Transfer Syntax": (GE_PRIVATE, lambda uid: _encoded(uid, IMPLICIT_LITTLE)),
    "encapsulated and uncompressed": (
        ENCAPSULATED_UNCOMPRESSED,
        lambda uid: _head(uid) + _undefined(0x7FE0, 0x10, b"OW", _item(0xE000, 0), ITEM, SEQUENCE_END),
    ),
    "an odd fragment": (
        JPEG_BASELINE,
        lambda uid: (
            _head(uid) + _undefined(0x7FE0, 0x10, b"OB", _item(0xE000, 0), _item(0xE000, 9), bytes(9), SEQUENCE_END)
        ),
    ),
    "explicit under implicit": (IMPLICIT_LITTLE, _encoded),
    "implicit under explicit": (EXPLICIT_LITTLE, lambda uid: _encoded(uid, IMPLICIT_LITTLE)),
    "a byte behind": (EXPLICIT_LITTLE, lambda uid: _encoded(uid) + b"\0"),
    "zeros behind": (EXPLICIT_LITTLE, lambda uid: _encoded(uid) + bytes(100)),
    "zeros behind a report": (IMPLICIT_LITTLE, lambda uid: _head(uid, IMPLICIT_LITTLE) + bytes(100)),
    "text behind Pixel Data": (EXPLICIT_LITTLE, lambda uid: _encoded(uid) + b"the end, says this sender"),
    "odd lengths": (
        EXPLICIT_LITTLE,
        lambda uid: _head(uid) + element(0x7FE00010, "OW", bytes(63)),
    ),
    "an element behind Pixel Data": (
        EXPLICIT_LITTLE,
        lambda uid: _encoded(uid) + element(0xFFFCFFFC, "OB", b"\0"),
    ),
    "group 0002": (EXPLICIT_LITTLE, lambda uid: element(0x00020010, "UI", JPEG_BASELINE) + _encoded(uid)),
    "empty private elements": (
        EXPLICIT_LITTLE,
        lambda uid: _head(uid) + element(0x00430010, "LO", b"") + element(0x00431001, "UN", b""),
    ),
    "undefined lengths": (
        EXPLICIT_LITTLE,
        lambda uid: (
            _head(uid)
            + _undefined(0x0040, 0x0260, b"SQ", OPEN_ITEM, UID_REFERENCE, ITEM_END, SEQUENCE_END)
            + element(0x7FE00010, "OW", bytes(8))
        ),
    ),
    "delimiters with a length": (
        EXPLICIT_LITTLE,
        lambda uid: (
            _head(uid) + _undefined(0x0040, 0x0260, b"SQ", OPEN_ITEM, UID_REFERENCE, _item(0xE00D, 8), _item(0xE0DD, 8))
        ),
    ),
    "an unknown character set": (
        EXPLICIT_LITTLE,
        lambda uid: _encoded(uid).replace(b"ISO_IR 100", b"LATIN  ONE"),
    ),
}


@pytest.mark.parametrize("checksums", [True, False])
def test_what_is_stored_as_received_is_well(start_daemon: StartDaemon, connect: Connect, checksums: bool) -> None:
    accepted = ["all", PAPYRUS, GE_PRIVATE]
    daemon = start_daemon(storage={"checksums": checksums}, contexts={"transfer_syntaxes": accepted})
    syntaxes = list(dict.fromkeys(syntax for syntax, _ in KINDS.values()))
    peer = connect(daemon)
    peer.associate([(CT_IMAGE_STORAGE, [syntax]) for syntax in syntaxes])
    answers = {}
    for number, (name, (syntax, make)) in enumerate(KINDS.items(), start=1):
        uid = new_uid()
        sent = Instance(CT_IMAGE_STORAGE, uid, syntax, make(uid))
        answer = peer.store(sent, context_id=2 * syntaxes.index(syntax) + 1, message_id=number)
        answers[name] = f"{answer.status:04X}"
    peer.release()
    assert set(answers.values()) <= {"0000", "C000"}, answers
    assert [name for name, answer in answers.items() if answer == "C000"] == ["group 0002"]
    done = subprocess.run(
        [sys.executable, "-m", "dicomd", "verify-store", "--config", daemon.config_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
